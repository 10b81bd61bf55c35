"""Videos that are spread over processes: what each process holds, and how all of them agree on one schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adacache.sites import Stream


class Shard:
    """The part of a run's videos that this process works on: all of them, unless a subclass says otherwise.

    All processes that share a video make the same controller calls in the same order. Each measures its part, and they
    exchange only the sums behind distances and motion scores, a few numbers for each computed step, so that all of them
    decide alike, and as one process would. Residuals stay where they were made.

    Attributes:
        frames: the slice of all frames, in order, that the hidden states of `stack` hold.
        half: index of the guidance half to which all rows belong; None if all halves are present.
    """

    frames: slice = slice(None)
    half: int | None = None

    def sum(self, terms: Tensor) -> Tensor:
        """Return the elementwise sum of a (K,) float32 tensor over all processes of the video; all get the same."""
        return terms

    def splits_frames(self, stream: Stream) -> bool:
        """Whether residuals of the stream's blocks hold these `frames` only, rather than all frames of some tokens."""
        return False

    def all_frames(self, residual: Tensor) -> Tensor:
        """Turn (B, T of these frames, S, C) into all frames of some tokens; every process must call this."""
        return residual


WHOLE = Shard()


def shared_means(sums: Sequence[Tensor], count: int, shard: Shard) -> list[Tensor]:
    """Turn sums over this process's `count` elements, 0-dim each, into means over the elements of all processes."""
    *totals, elements = shard.sum(torch.stack([*sums, torch.full_like(sums[0], count)])).unbind()
    return [total / elements for total in totals]
