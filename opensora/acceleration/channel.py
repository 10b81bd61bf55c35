"""Exchange between the processes that share a video, with every byte counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

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


class Transport(Protocol):
    """Moves the data of a group; every method works in place."""

    def exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None:
        """Send consecutive parts of `sent` to one process each, and fill `received` with what these sent here."""

    def sum(self, values: Tensor) -> None:
        """Replace `values` with their sum over all processes."""

    def gather(self, parts: Sequence[Tensor], part: Tensor) -> None:
        """Fill `parts` with the parts of all processes."""

    def gather_objects(self, values: list[Any], value: object) -> None:
        """Fill `values` with the values of all processes, which are objects that can be pickled."""

    def spread(self, values: Tensor, source: int) -> None:
        """Overwrite `values` with those of process `source`."""


class DistributedTransport(Transport):
    """A process group of torch.distributed; `ranks` are those of its processes, in order."""

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int]) -> None:
        self._group = group
        self._ranks = ranks

    def exchange(
        self, received: Tensor, sent: Tensor, received_sizes: Sequence[int], sent_sizes: Sequence[int]
    ) -> None:
        dist.all_to_all_single(received, sent, list(received_sizes), list(sent_sizes), group=self._group)

    def sum(self, values: Tensor) -> None:
        dist.all_reduce(values, group=self._group)

    def gather(self, parts: Sequence[Tensor], part: Tensor) -> None:
        dist.all_gather(list(parts), part, group=self._group)

    def gather_objects(self, values: list[Any], value: object) -> None:
        dist.all_gather_object(values, value, group=self._group)

    def spread(self, values: Tensor, source: int) -> None:
        dist.broadcast(values, self._ranks[source], group=self._group)


class Channel:
    """Exchanges data between the processes of one group, and counts it.

    The bytes counted are those that the usual algorithms send from each of P processes: 2 n (P - 1) / P to reduce n
    bytes, n (P - 1) to gather n from each, and whatever leaves the process in an exchange.

    Args:
        index: of this process among the `size` of the group.
    """

    def __init__(self, transport: Transport, index: int, size: int, traffic: Traffic) -> None:
        self._transport = transport
        self.index = index
        self.size = size
        self.traffic = traffic

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], purpose: Purpose) -> list[Tensor]:
        """Send `parts[i]` to process i, and return what each process sent here, of the given `shapes`."""
        sizes, own_sizes = [torch.Size(shape).numel() for shape in shapes], [part.numel() for part in parts]
        sent = parts[0].new_empty(sum(own_sizes))
        for part, place in zip(parts, sent.split(own_sizes), strict=True):
            place.view(part.shape).copy_(part)  # the only copy; parts are slices, and flattening them would copy, too
        received = sent.new_empty(sum(sizes))
        self._transport.exchange(received, sent, sizes, own_sizes)
        self._count(purpose, (sent.numel() - parts[self.index].numel()) * sent.element_size())
        return [part.view(*shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]

    def sum(self, terms: Tensor, purpose: Purpose) -> Tensor:
        """Return the elementwise sum over all processes, the same for all."""
        total = terms.clone()
        self._transport.sum(total)
        self._count(purpose, -(-2 * _bytes(total) * (self.size - 1) // self.size))
        return total

    def gather(self, part: Tensor, purpose: Purpose) -> list[Tensor]:
        """Return the parts of all processes, which have the same shape."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self._transport.gather(parts, part)
        self._count(purpose, _bytes(part) * (self.size - 1))
        return parts

    def gather_objects(self, value: object) -> list[Any]:
        """Return the values of all processes; they are small, and are not counted."""
        values: list[Any] = [None] * self.size
        self._transport.gather_objects(values, value)
        return values

    def spread(self, tensor: Tensor, source: int, purpose: Purpose) -> None:
        """Overwrite `tensor` with that of process `source`."""
        self._transport.spread(tensor, source)
        if source == self.index:
            self._count(purpose, _bytes(tensor) * (self.size - 1))

    def _count(self, purpose: Purpose, amount: int) -> None:
        if amount:
            self.traffic.sent[purpose] += amount


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
