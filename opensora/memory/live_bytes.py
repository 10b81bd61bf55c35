"""Bytes that a model's weights hold, and the most that tensors hold at once while a function runs.

Both work on any device: the meta device needs no memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def held_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers; shared ones count once."""
    return sum(tensor.nbytes for tensor in {id(t): t for t in chain(model.parameters(), model.buffers())}.values())


def peak_live_bytes(function: Callable[[], Any]) -> int:
    """Run `function` and return the most bytes that tensors made by it held at any time.

    Views count once, with the tensor they look at; what existed before (weights, inputs) does not count, and what
    nobody refers to any more stops to. Of what kernels take for themselves while they run, one thing is counted:
    convolutions in 16 bits compute with the channels last, and copy their input and output to and from that layout. On
    an H100 the largest layers of the autoencoder took just that. Not seen is other work space, and what the allocator
    wastes by rounding and fragmentation.

    Attention of meta tensors is taken to be the fused kernels' (flash, memory-efficient), which CUDA and the CPU have
    for every attention here: their output and one number per query, never the matrix of all queries and keys. So are
    root-mean-square norms, which take nothing but their output on CUDA.
    """
    tracker = _LiveBytes()
    with torch.no_grad(), _FusedKernels(), tracker:
        function()
    return tracker.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that appear as outputs of operations, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()  # ids of storages; one stays the same while anything refers to the storage

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and note what it made."""
        kwargs = kwargs or {}
        for given in tree_iter((args, kwargs)):
            self._note(given, counted=False)
        output = func(*args, **kwargs)
        for made in tree_iter(output):
            self._note(made, counted=True)
        copies = 0
        if func is torch.ops.aten.convolution.default and output.dtype.itemsize == 2:
            copies = args[0].nbytes + output.nbytes
        self.peak = max(self.peak, self.live + copies)
        return output

    def _note(self, value: Any, counted: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        nbytes = storage.nbytes() if counted else 0
        self.live += nbytes
        weakref.finalize(storage, self._forget, id(storage), nbytes).atexit = False

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.live -= nbytes


class _FusedKernels(TorchFunctionMode):
    """Gives attention and norms of meta tensors the outputs of fused kernels, attention (B, N, heads, D) in memory.

    Meta tensors would take the path of separate operations, which no device takes that has a fused kernel.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace those two functions."""
        kwargs = kwargs or {}
        if func is F.rms_norm and args[0].device.type == "meta":
            return torch.empty_like(args[0])
        if func is not F.scaled_dot_product_attention or not args or args[0].device.type != "meta":
            return func(*args, **kwargs)
        query, _, value = args[:3]
        *batch, heads, length, _ = query.shape
        # What training would need; the kernels return it to everyone.
        logsumexp = query.new_empty(*batch, heads, length, dtype=torch.float32)
        output = query.new_empty(*batch, length, heads, value.shape[-1]).transpose(-2, -3)
        del logsumexp
        return output
