"""Videos that are spread over processes: what each of them holds, and how they agree on one schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adacache.sites import Stream


class Shard(Protocol):
    """The part of a run's videos that this process works on.

    All processes that share a video run the same controller calls in the same order. Each measures its part; what they
    exchange are the sums behind distances and motion scores, a few numbers for each computed step, so that all of them
    decide alike, and as one process would. Residuals stay where they were made.

    Attributes:
        frames: of all frames in order, those in the hidden states that `stack` is given.
        half: number of the guidance half that all rows are of; None where all halves are there.
    """

    frames: slice
    half: int | None

    def sum(self, terms: Tensor) -> Tensor:
        """The elementwise sum of a (K,) float32 tensor over all processes of the video, the same for all of them."""
        ...

    def splits_frames(self, stream: Stream) -> bool:
        """Whether a residual of the stream's blocks has these `frames` only; it has all, for a part of the tokens,
        otherwise.
        """
        ...

    def all_frames(self, residual: Tensor) -> Tensor:
        """(B, T of these frames, S, C) with all frames, for a part of the tokens; every process calls it."""
        ...


class WholeVideo:
    """The shard of a process that works alone."""

    frames = slice(None)
    half = None

    def sum(self, terms: Tensor) -> Tensor:
        """As they are."""
        return terms

    def splits_frames(self, stream: Stream) -> bool:
        """Never."""
        return False

    def all_frames(self, residual: Tensor) -> Tensor:
        """As it is."""
        return residual


WHOLE = WholeVideo()


def shared_means(sums: Sequence[Tensor], count: int, shard: Shard) -> list[Tensor]:
    """Sums over `count` elements here, 0-dim each, as means over the elements of all processes."""
    *totals, elements = shard.sum(torch.stack([*sums, torch.full_like(sums[0], count)])).unbind()
    return [total / elements for total in totals]
