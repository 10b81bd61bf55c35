"""Exchange between the processes that share a video, with every byte counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Purpose = Literal["blocks", "schedule", "output", "decode"]


@dataclass
class Traffic:
    """Bytes that this process sent, by purpose.

    Attributes:
        sent: bytes since the start.
        calls: bytes in each forward pass of the model so far, in order.
    """

    sent: Counter[str] = field(default_factory=Counter)
    calls: list[dict[str, int]] = field(default_factory=list)

    def end_call(self, before: Counter[str]) -> None:
        """Record the traffic of a forward pass that ends now and began when `sent` was `before`."""
        self.calls.append(dict(self.sent - before))


class Channel:
    """Exchanges data between the processes of one group, and counts it.

    The bytes counted are those that the usual algorithms send from each of P processes: 2 n (P - 1) / P to reduce n
    bytes, n (P - 1) to gather n from each, and whatever leaves the process in an exchange.

    Args:
        ranks: those of the group's processes, in order.
        traffic: where the bytes are counted.

    Attributes:
        index: number of this process among the `size` of the group.
    """

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int], traffic: Traffic) -> None:
        self._group = group
        self._ranks = ranks
        self.index = ranks.index(dist.get_rank())
        self.size = len(ranks)
        self.traffic = traffic

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], purpose: Purpose) -> list[Tensor]:
        """Send `parts[i]` to process i, and return what each process sent here, of the given `shapes`."""
        sizes, own_sizes = [torch.Size(shape).numel() for shape in shapes], [part.numel() for part in parts]
        sent = parts[0].new_empty(sum(own_sizes))
        for part, place in zip(parts, sent.split(own_sizes), strict=True):
            place.view(part.shape).copy_(part)  # the only copy; parts are slices, and flattening them would copy, too
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, own_sizes, group=self._group)
        self._count(purpose, (sent.numel() - parts[self.index].numel()) * sent.element_size())
        return [part.view(*shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]

    def sum(self, terms: Tensor, purpose: Purpose) -> Tensor:
        """Return the elementwise sum over all processes, the same for all."""
        total = terms.clone()
        dist.all_reduce(total, group=self._group)
        self._count(purpose, -(-2 * _bytes(total) * (self.size - 1) // self.size))
        return total

    def gather(self, part: Tensor, purpose: Purpose) -> list[Tensor]:
        """Return the parts of all processes, which have the same shape."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part, group=self._group)
        self._count(purpose, _bytes(part) * (self.size - 1))
        return parts

    def gather_objects(self, value: object) -> list[Any]:
        """Return the values of all processes; they are small, and are not counted."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def spread(self, tensor: Tensor, source: int, purpose: Purpose) -> None:
        """Overwrite `tensor` with that of process `source`."""
        dist.broadcast(tensor, self._ranks[source], group=self._group)
        if source == self.index:
            self._count(purpose, _bytes(tensor) * (self.size - 1))

    def _count(self, purpose: Purpose, amount: int) -> None:
        if amount:
            self.traffic.sent[purpose] += amount


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
