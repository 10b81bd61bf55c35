"""What a policy may look at before the blocks are computed: how a signal of the model changed."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from adacache.distance import change_terms
from adacache.frames import FrameSet
from adacache.policies.base import SignalChange
from adacache.shard import WHOLE, Shard, shared_means
from adacache.storage import KeptTensor, TensorStore, standalone


class SignalMeter:
    """Compares a signal with that of the step before, or of the last computed step, and keeps it for the next time.

    A signal has any shape, the same throughout a run, with the frames of videos in dimension 1; of a `shard`, those
    that it holds. It is kept exactly as it came, whatever the store narrows.
    """

    def __init__(self, reference: Literal["previous", "computed"], store: TensorStore, shard: Shard = WHOLE) -> None:
        self._reference = reference
        self._store = store
        self._shard = shard
        self._kept: KeptTensor | None = None

    def measure(self, signal: Tensor, frames: FrameSet | None = None) -> tuple[Tensor, Tensor] | None:
        """mean|signal - reference| and mean|reference| over `frames` (None for all) of the video, as 0-dim tensors.

        None where there is no reference yet, or no frame to compare.

        Raises: ValueError when the signal's shape changed.
        """
        frames = frames or FrameSet()
        if self._kept is None or frames.is_empty:
            return None
        held = frames.part(self._shard.frames)
        current = held.take(signal.detach())
        difference, magnitude = shared_means(
            change_terms(held.take(self._kept.fetch()), current), current.numel(), self._shard
        )
        return difference, magnitude

    def settle(self, signal: Tensor, computed: bool) -> None:
        """Keep the signal of a step, now that it is known whether it is `computed`, if it is to be a reference."""
        if computed or self._reference == "previous":
            self._kept = self._store.keep(standalone(signal), exact=True)

    def free(self) -> None:
        """Let go of the reference."""
        self._kept = None

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [] if self._kept is None else [self._kept]


def read_changes(measured: Sequence[tuple[Tensor, Tensor] | None]) -> list[SignalChange | None]:
    """What meters measured, as plain numbers; the host waits for the device once."""
    scalars = [scalar for pair in measured if pair is not None for scalar in pair]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    return [None if pair is None else SignalChange(next(numbers), next(numbers)) for pair in measured]
