"""The runs a calibration is made of: uncached ones that are recorded, probes, and schedules that are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from adacache.calibration.plan import Clip
from adacache.calibration.quality import Quality
from adacache.calibration.recorder import ResidualRecorder
from adacache.calibration.simulation import Recording, gains_from_probes, gram_of_sketches
from adacache.controller import StepController
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.trace import Trace


class ClipSampler(Protocol):
    """Whatever makes videos; it has no cache of its own, or leaves that one aside.

    Attributes:
        num_steps: of every run as a cache counts them: calls of the model.
    """

    @property
    def num_steps(self) -> int: ...

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Final latents (B, ...) of a batch, under a controller or with every step computed."""

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """The same as videos, (F, H, W, 3) uint8 each."""


@dataclass(frozen=True)
class Runner:
    """Samples clips in batches and reports each finished one."""

    sampler: ClipSampler
    batch_size: int
    finished: Callable[[int], object]  # is told how many clips of a batch are done

    @property
    def num_steps(self) -> int:
        """Steps of every run as a cache counts them: calls of the model."""
        return self.sampler.num_steps

    def sample(
        self, clips: Sequence[Clip], controller: StepController | None, collect: Callable[[Tensor], None]
    ) -> None:
        """Sample all clips and hand the latents (B, ...) of each batch to ``collect``."""
        for batch in self._batches(clips):
            collect(self.sampler.latents(batch, controller))
            self.finished(len(batch))

    def record(self, clips: Sequence[Clip], probed: Sequence[int]) -> Recording:
        """Run the clips without reuse and once more for every probed step, which reuses the residual before it.

        What is kept is bounded: a sketch of each residual, and the final latents of one batch.
        """
        every_step = tuple(range(self.num_steps))
        grams, powers, effects, errors = [], [], [], []
        for batch in self._batches(clips):
            recorder = ResidualRecorder()
            exact = self._latents(batch, StepController(StaticScheduleConfig(every_step), observers=[recorder]))
            gram = gram_of_sketches(recorder.sketches())
            grams.append(gram)
            powers.append(_mean_square(exact))
            effects.append([])
            for step in probed:
                without = StaticScheduleConfig(tuple(i for i in every_step if i != step))
                effects[-1].append(_mean_square(self._latents(batch, StepController(without)) - exact))
            # |a - b|^2 = |a|^2 - 2 a.b + |b|^2, of the residuals at a probed step and the one before
            errors.append([gram[:, i, i] - 2 * gram[:, i, i - 1] + gram[:, i - 1, i - 1] for i in probed])
        gains = gains_from_probes(probed, np.hstack(effects), np.hstack(errors), self.num_steps)
        return Recording(np.concatenate(grams), gains, np.concatenate(powers))

    def quality(self, policy: PolicyConfig, clips: Sequence[Clip], exact: Sequence[np.ndarray]) -> Quality:
        """PSNR of every clip under a policy against its frames ``exact``, and the traces."""
        traces: list[Trace] = []
        controller = StepController(policy)
        frames = self._frames(clips, controller, lambda: traces.extend(controller.traces))
        return Quality.of(frames, exact, traces)

    def exact_frames(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """The clips without reuse, (F, H, W, 3) uint8 each."""
        return self._frames(clips, None, lambda: None)

    def _frames(
        self, clips: Sequence[Clip], controller: StepController | None, after_batch: Callable[[], object]
    ) -> list[np.ndarray]:
        frames: list[np.ndarray] = []
        for batch in self._batches(clips):
            frames += self.sampler.frames(batch, controller)
            after_batch()
            self.finished(len(batch))
        return frames

    def _batches(self, clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
        return (clips[start : start + self.batch_size] for start in range(0, len(clips), self.batch_size))

    def _latents(self, batch: Sequence[Clip], controller: StepController) -> Tensor:
        kept: list[Tensor] = []
        self.sample(batch, controller, kept.append)
        return kept[0]


def _mean_square(latents: Tensor) -> np.ndarray:
    """(B, ...) -> (B,) float64."""
    return latents.double().square().flatten(1).mean(1).cpu().numpy()
