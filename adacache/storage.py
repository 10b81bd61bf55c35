"""Where residuals are kept between steps: on the model's device or in CPU memory, as they are or narrowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Transfers(Protocol):
    """Copies between one device and the host, for which neither of them waits until somebody needs a result."""

    def to_host(self, tensor: Tensor) -> Tensor:
        """A copy in host memory; it may still be on its way and is good for `to_device` only."""
        ...

    def to_device(self, host: Tensor) -> tuple[Tensor, Any]:
        """Start to copy what `to_host` gave back; the tensor, and what says that it is complete."""
        ...

    def wait(self, arriving: tuple[Tensor, Any]) -> Tensor:
        """The tensor of `to_device`, safe to be used by all that the device is told to do from here on."""
        ...


class CudaTransfers(Transfers):
    """Copies to pinned memory and back on a stream of their own, beside the stream that computes.

    The host waits for nothing: the streams wait for each other, and the allocators know which of them still reads or
    writes a buffer. One stream does all copies in the order of the calls, so none comes back before it has arrived.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def to_host(self, tensor: Tensor) -> Tensor:
        """The pinned buffer has the tensor's strides, so that nothing is rearranged on the way."""
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which computes the tensor
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)  # whoever lets go of it, its memory stays until it is copied
        return host

    def to_device(self, host: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """The memory is the computing stream's, which takes it over for its blocks afterwards."""
        tensor = torch.empty_like(host, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which used that memory until now
        with torch.cuda.stream(self._stream):
            tensor.copy_(host, non_blocking=True)
        tensor.record_stream(self._stream)  # a run may end before anybody waits for the copy
        return tensor, self._stream.record_event()

    def wait(self, arriving: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        """The computing stream waits, the host does not."""
        tensor, complete = arriving
        torch.cuda.current_stream(self._device).wait_event(complete)
        return tensor


# Device types with memory of their own, which cache_device="cpu" can relieve.
TRANSFERS: dict[str, Callable[[torch.device], Transfers]] = {"cuda": CudaTransfers}


class KeptTensor:
    """One tensor that a `TensorStore` keeps.

    Attributes:
        shape, dtype: of the tensor that was given, and of the one that `fetch` gives back.
    """

    def __init__(self, tensor: Tensor, dtype: torch.dtype | None, transfers: Transfers | None) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype
        converted = _convert(tensor, dtype)
        self._transfers = transfers
        self._stored = converted if transfers is None else transfers.to_host(converted)
        self._arriving: tuple[Tensor, Any] | None = None

    def prefetch(self) -> None:
        """Start to bring the tensor back to its device, if it is not there or on its way."""
        if self._transfers is not None and self._arriving is None:
            self._arriving = self._transfers.to_device(self._stored)

    def fetch(self) -> Tensor:
        """The tensor, on its device and in its dtype; where it is kept there as it is, no copy of it."""
        if self._transfers is None:
            return self._stored.to(self.dtype)
        self.prefetch()
        arriving, self._arriving = self._arriving, None
        return self._transfers.wait(arriving).to(self.dtype)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held now by device, with those of a copy that was prefetched."""
        memory = {str(self._stored.device): self._stored.nbytes}
        if self._arriving is not None:
            memory[str(self._arriving[0].device)] = self._arriving[0].nbytes
        return memory

    @property
    def nbytes(self) -> int:
        """Bytes held now on all devices."""
        return sum(self.memory.values())


class TensorStore:
    """Keeps the tensors of one run as `ReuseOptions.cache_device` and `cache_dtype` say."""

    def __init__(
        self,
        device: Literal["model", "cpu"] = "model",
        dtype: Literal["fp32", "bf16", "fp16"] | None = None,
    ) -> None:
        self._device = device
        self._dtype = None if dtype is None else DTYPES[dtype]
        self._transfers: dict[torch.device, Transfers] = {}

    def keep(self, tensor: Tensor, exact: bool = False) -> KeptTensor:
        """Take a tensor that nobody will change; `exact` keeps its dtype whatever the store's is."""
        return KeptTensor(tensor, None if exact else self._dtype, self._transfers_of(tensor.device))

    def _transfers_of(self, device: torch.device) -> Transfers | None:
        """How to get tensors off a device; None where they stay."""
        if self._device == "model" or device.type not in TRANSFERS:
            return None
        if device not in self._transfers:
            self._transfers[device] = TRANSFERS[device.type](device)
        return self._transfers[device]


def standalone(tensor: Tensor) -> Tensor:
    """The tensor without its autograd graph, copied where it is a part of a larger one: that would be kept alive."""
    tensor = tensor.detach()
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


def _convert(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or dtype == tensor.dtype:
        return tensor
    converted = tensor.to(dtype)
    if dtype == torch.float16:
        # Beyond its range float16 has infinities only, and one of them spoils a whole video where a large number does
        # not. To refuse them instead, the host would have to look, and so to wait, at every computed step. Clamped is
        # the result: in bfloat16, 65504 itself is rounded to a number that float16 does not have.
        limit = torch.finfo(dtype).max
        converted.clamp_(-limit, limit)
    return converted


class HostCopy:
    """A copy of a small tensor that begins now; on CUDA it is queued behind what makes the tensor.

    Work that is queued later does not delay it, so that a number of one step can be read while the next one runs.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = tensor
        if tensor.is_cuda:
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> list[float]:
        """The numbers of a vector, as plain ones; waits until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
