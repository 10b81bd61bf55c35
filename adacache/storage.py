"""Where residuals are kept between steps: on the model's device or in CPU memory, as they are or narrowed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class CudaTransfers:
    """Copies from one device to pinned memory and back, on a stream of their own beside the stream that computes.

    The host never waits: the streams wait for each other, and the allocators know which stream still reads or writes a
    buffer. One stream does all copies in the order of the calls, so no tensor is copied back before it has arrived.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def to_host(self, tensor: Tensor) -> Tensor:
        """Return a copy that may still be on its way, and is good for `to_device` only."""
        # The buffer has the tensor's strides, so that nothing is rearranged on the way.
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which computes the tensor
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)  # its memory is not reused before it is copied
        return host

    def to_device(self, host: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Start to copy what `to_host` returned; return the tensor and the event of its completion."""
        # In memory of the computing stream, which can reuse it for its blocks afterwards.
        tensor = torch.empty_like(host, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # which used that memory until now
        with torch.cuda.stream(self._stream):
            tensor.copy_(host, non_blocking=True)
        tensor.record_stream(self._stream)  # a run may end before anybody waits for the copy
        return tensor, self._stream.record_event()

    def wait(self, arriving: tuple[Tensor, torch.cuda.Event]) -> Tensor:
        """Return the tensor of `to_device`, safe for all work that is queued from here on; the host does not wait."""
        tensor, complete = arriving
        torch.cuda.current_stream(self._device).wait_event(complete)
        return tensor


# Device types that have their own memory, which cache_device="cpu" relieves.
TRANSFERS = {"cuda": CudaTransfers}


class KeptTensor:
    """One tensor that a `TensorStore` keeps.

    Attributes:
        shape, dtype: of the tensor that was given, and of the one that `fetch` gives back.
    """

    def __init__(self, tensor: Tensor, dtype: torch.dtype | None, transfers: CudaTransfers | None) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype
        converted = _convert(tensor, dtype)
        self._transfers = transfers
        self._stored = converted if transfers is None else transfers.to_host(converted)
        self._arriving: tuple[Tensor, torch.cuda.Event] | None = None

    def prefetch(self) -> None:
        """Start to bring the tensor back to its device, unless it is there or on its way."""
        if self._transfers is not None and self._arriving is None:
            self._arriving = self._transfers.to_device(self._stored)

    def fetch(self) -> Tensor:
        """Return the tensor on its device and in its dtype; no copy is made if it is kept there as it is."""
        if self._transfers is None:
            return self._stored.to(self.dtype)
        self.prefetch()
        arriving, self._arriving = self._arriving, None
        return self._transfers.wait(arriving).to(self.dtype)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes held now by device, including a prefetched copy."""
        memory = {str(self._stored.device): self._stored.nbytes}
        if self._arriving is not None:
            memory[str(self._arriving[0].device)] = self._arriving[0].nbytes
        return memory

    @property
    def nbytes(self) -> int:
        """Bytes held now on all devices."""
        return sum(self.memory.values())


class TensorStore:
    """Keeps the tensors of one run as `PolicyConfig.cache_device` and `cache_dtype` say."""

    def __init__(
        self,
        device: Literal["model", "cpu"] = "model",
        dtype: Literal["fp32", "bf16", "fp16"] | None = None,
    ) -> None:
        self._device = device
        self._dtype = None if dtype is None else DTYPES[dtype]
        self._transfers: dict[torch.device, CudaTransfers] = {}

    def keep(self, tensor: Tensor, exact: bool = False) -> KeptTensor:
        """Keep a tensor that nobody will change; `exact` keeps its dtype even if the store narrows others."""
        return KeptTensor(tensor, None if exact else self._dtype, self._transfers_of(tensor.device))

    def _transfers_of(self, device: torch.device) -> CudaTransfers | None:
        """Return the transfers that move tensors off a device, or None if they stay there."""
        if self._device == "model" or device.type not in TRANSFERS:
            return None
        if device not in self._transfers:
            self._transfers[device] = TRANSFERS[device.type](device)
        return self._transfers[device]


def standalone(tensor: Tensor) -> Tensor:
    """Return the tensor without its autograd graph, cloned if it is a view that would keep a larger tensor alive."""
    tensor = tensor.detach()
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


def _convert(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or dtype == tensor.dtype:
        return tensor
    converted = tensor.to(dtype)
    if dtype == torch.float16:
        # Numbers beyond float16's range become infinite, and one infinity spoils a whole video where a large number
        # does not. To refuse them instead, the host would have to look, and so wait, at every computed step. The result
        # is clamped, not the input: bfloat16 rounds 65504 itself to a number that float16 does not have.
        limit = torch.finfo(dtype).max
        converted.clamp_(-limit, limit)
    return converted


class HostCopy:
    """A copy of a small tensor to the host that begins now; on CUDA it is queued behind the work that makes the tensor.

    Work that is queued later does not delay it, so that numbers of one step can be read while the next one runs.
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
        """Return the values of a vector as plain numbers; waits until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
