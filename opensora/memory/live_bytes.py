"""Bytes that a model's weights hold, and the most that tensors hold at once while a function runs.

Both work on any device; on the meta device they need no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; shared ones count once."""
    return sum(tensor.nbytes for tensor in {id(t): t for t in chain(model.parameters(), model.buffers())}.values())


def peak_live_bytes(function: Callable[[], Any]) -> int:
    """Run `function` and return the most bytes that tensors made by it held at any time.

    A view counts with the tensor it looks at. What existed before (weights, inputs) does not count, and a tensor stops
    counting when nothing refers to it any more. Only one kind of work space inside kernels is counted: convolutions in
    16 bits compute with the channels last, and copy their input and output to and from that layout; on an H100, the
    largest layers of the autoencoder took just that. Other work space, and what the allocator wastes by rounding and
    fragmentation, is not seen.

    Attention of meta tensors is counted as in fused kernels (flash, memory-efficient), which CUDA and the CPU have for
    every attention here: they hold their output and one number per query, never the matrix of all queries and keys.
    Norms and GELU of meta tensors are counted likewise: they take nothing but their output and a few statistics.
    """
    tracker = _LiveBytes()
    with torch.no_grad(), _FusedKernels(), tracker:
        function()
    return tracker.peak


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among what an operation takes or returns; torch's tree functions take three times as long."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that appear as outputs of operations, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()  # ids of storages; an id stays the same while anything refers to the storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and note what it made."""
        kwargs = kwargs or {}
        for given in _tensors_in((*args, *kwargs.values())):
            self._note(given, counted=False)
        output = func(*args, **kwargs)
        for made in _tensors_in((output,)):
            self._note(made, counted=True)
        copies = 0
        if func is torch.ops.aten.convolution.default and output.dtype.itemsize == 2:
            copies = args[0].nbytes + output.nbytes
        self.peak = max(self.peak, self.live + copies)
        return output

    def _note(self, tensor: Tensor, counted: bool) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        nbytes = storage.nbytes() if counted else 0
        self.live += nbytes
        weakref.finalize(storage, self._forget, id(storage), nbytes).atexit = False

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes


_LIKE_THEIR_INPUT = {F.rms_norm, F.layer_norm, F.group_norm, F.gelu}


class _FusedKernels(TorchFunctionMode):
    """Gives attention and norms of meta tensors the outputs of fused kernels, (B, N, heads, D) in memory for attention.

    Meta tensors would otherwise run separate operations, which a device with a fused kernel never does, and which take
    a third of an estimate's time.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace attention and norms of meta tensors, and run anything else."""
        kwargs = kwargs or {}
        if func in _LIKE_THEIR_INPUT and args[0].device.type == "meta":
            return torch.empty_like(args[0])
        if func is not F.scaled_dot_product_attention or not args or args[0].device.type != "meta":
            return func(*args, **kwargs)
        query, _, value = args[:3]
        *batch, heads, length, _ = query.shape
        # Only training needs this, but the kernels always return it.
        logsumexp = query.new_empty(*batch, heads, length, dtype=torch.float32)
        output = query.new_empty(*batch, length, heads, value.shape[-1]).transpose(-2, -3)
        del logsumexp
        return output
