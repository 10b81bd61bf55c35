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
        sent: since the start.
        calls: of each forward pass of the model so far, in order.
    """

    sent: Counter[str] = field(default_factory=Counter)
    calls: list[dict[str, int]] = field(default_factory=list)

    def end_call(self, before: Counter[str]) -> None:
        """A forward pass is over that began when ``sent`` was ``before``."""
        self.calls.append(dict(self.sent - before))


class Channel:
    """The processes of one group, in the order of their ranks.

    Counted are the bytes of data that the usual algorithms send from each of P processes: of a reduction of n bytes
    2 n (P - 1) / P, to gather n from each n (P - 1), of an exchange what is not kept.

    Args:
        group: of torch.distributed.
        ranks: of its processes, in order.
        index: of this process among them.
    """

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int], index: int, traffic: Traffic) -> None:
        self._group = group
        self._ranks = ranks
        self.index = index
        self.size = len(ranks)
        self.traffic = traffic

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], purpose: Purpose) -> list[Tensor]:
        """Send ``parts[i]`` to process i; what they sent here, of the given ``shapes``."""
        sizes = [torch.Size(shape).numel() for shape in shapes]
        sent = torch.cat([part.reshape(-1) for part in parts])
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, [part.numel() for part in parts], group=self._group)
        away = sent.numel() - parts[self.index].numel()
        self.traffic.sent[purpose] += away * sent.element_size()
        return [part.view(*shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]

    def sum(self, terms: Tensor, purpose: Purpose) -> Tensor:
        """The elementwise sum over all processes, the same for all."""
        total = terms.clone()
        dist.all_reduce(total, group=self._group)
        self.traffic.sent[purpose] += -(-2 * total.numel() * total.element_size() * (self.size - 1) // self.size)
        return total

    def gather(self, part: Tensor, purpose: Purpose) -> list[Tensor]:
        """The parts of all processes, which have one shape."""
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in self._ranks]
        dist.all_gather(parts, part, group=self._group)
        self.traffic.sent[purpose] += part.numel() * part.element_size() * (self.size - 1)
        return parts

    def gather_objects(self, value: object) -> list[Any]:
        """The values of all processes; small ones, which are not counted."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def spread(self, tensor: Tensor, source: int, purpose: Purpose) -> None:
        """Overwrite ``tensor`` with that of process ``source``."""
        dist.broadcast(tensor, self._ranks[source], group=self._group)
        if source == self.index:
            self.traffic.sent[purpose] += tensor.numel() * tensor.element_size() * (self.size - 1)
