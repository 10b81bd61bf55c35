"""Samples clips under a policy, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from adacache.calibration.plan import Clip
from adacache.controller import StepController
from adacache.policies.base import PolicyConfig
from adacache.trace import Trace


class ClipSampler(Protocol):
    """Samples videos; it has no cache of its own, or sets that cache aside.

    Attributes:
        num_steps: steps of every run as a cache counts them: calls of the model.
    """

    @property
    def num_steps(self) -> int: ...

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Return the final latents (B, ...) of a batch, under a controller or with every step computed."""

    def refined(self, factor: int) -> AbstractContextManager[None]:
        """Run `factor` steps in place of each while in the context, nearer to the exact solution; the old times stay.

        Raises:
            ValueError: the sampler's times do not lie among those of more steps.
        """

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """Return the same batch as videos, (F, H, W, 3) uint8 each."""


@dataclass(frozen=True)
class Runner:
    """Samples clips in batches and reports each finished batch."""

    sampler: ClipSampler
    batch_size: int
    finished: Callable[[int], object]  # called with the number of clips of a finished batch

    @property
    def num_steps(self) -> int:
        """Steps of every run as a cache counts them: calls of the model."""
        return self.sampler.num_steps

    def sample(
        self, clips: Sequence[Clip], controller: StepController | None, collect: Callable[[Tensor], None]
    ) -> None:
        """Sample all clips and pass the latents (B, ...) of each batch to `collect`."""
        for batch in self.split(clips, self.batch_size):
            collect(self.sampler.latents(batch, controller))
            self.finished(len(batch))

    def frames(self, clips: Sequence[Clip], policy: PolicyConfig | None = None) -> tuple[list[np.ndarray], list[Trace]]:
        """Return the clips as videos, (F, H, W, 3) uint8 each, and their traces; without a policy there are none."""
        controller = None if policy is None else StepController(policy)
        frames: list[np.ndarray] = []
        traces: list[Trace] = []
        for batch in self.split(clips, self.batch_size):
            frames += self.sampler.frames(batch, controller)
            traces += [] if controller is None else controller.traces
            self.finished(len(batch))
        return frames, traces

    @staticmethod
    def split(clips: Sequence[Clip], batch_size: int) -> Iterator[Sequence[Clip]]:
        """Split the clips into batches."""
        return (clips[start : start + batch_size] for start in range(0, len(clips), batch_size))
