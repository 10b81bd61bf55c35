"""Videos that are spread over processes: what each process holds, and how all of them agree on one schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adacache.sites import Stream


class Shard(Protocol):
    """The part of a run's videos that this process works on.

    All processes that share a video make the same controller calls in the same order. Each measures its part, and they
    exchange only the sums behind distances and motion scores, a few numbers for each computed step, so that all of them
    decide alike, and as one process would. Residuals stay where they were made.

    Attributes:
        frames: the slice of all frames, in order, that the hidden states of `stack` hold.
        half: index of the guidance half to which all rows belong; None if all halves are present.
    """

    frames: slice
    half: int | None

    def sum(self, terms: Tensor) -> Tensor:
        """Return the elementwise sum of a (K,) float32 tensor over all processes of the video; all get the same."""
        ...

    def splits_frames(self, stream: Stream) -> bool:
        """Whether residuals of the stream's blocks hold these `frames` only, rather than all frames of some tokens."""
        ...

    def all_frames(self, residual: Tensor) -> Tensor:
        """Turn (B, T of these frames, S, C) into all frames of some tokens; every process must call this."""
        ...


class WholeVideo:
    """The shard of a process that works alone."""

    frames = slice(None)
    half = None

    def sum(self, terms: Tensor) -> Tensor:
        """Return the terms as they are."""
        return terms

    def splits_frames(self, stream: Stream) -> bool:
        """Return False: all frames are here."""
        return False

    def all_frames(self, residual: Tensor) -> Tensor:
        """Return the residual as it is."""
        return residual


WHOLE = WholeVideo()


def shared_means(sums: Sequence[Tensor], count: int, shard: Shard) -> list[Tensor]:
    """Turn sums over this process's `count` elements, 0-dim each, into means over the elements of all processes."""
    *totals, elements = shard.sum(torch.stack([*sums, torch.full_like(sums[0], count)])).unbind()
    return [total / elements for total in totals]
