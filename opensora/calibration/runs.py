"""The runs a calibration is made of: uncached ones that are recorded, probes, and schedules that are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from adacache import StepController, Trace
from adacache.calibration.recorder import ResidualRecorder
from adacache.calibration.recording import Recording, gains_from_probes, gram_of_sketches
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from opensora.calibration.clips import Clip
from opensora.utils.psnr import psnr

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline


@dataclass(frozen=True)
class Runner:
    """Samples clips in batches and reports each finished one; the pipeline's own cache is left alone."""

    pipe: SamplingPipeline
    batch_size: int
    finished: Callable[[int], object]  # is told how many clips of a batch are done

    @property
    def num_steps(self) -> int:
        """Steps of every run as a cache counts them: calls of the model."""
        return self.pipe.scheduler.num_model_calls

    def sample(
        self, clips: Sequence[Clip], controller: StepController | None, collect: Callable[[Tensor], None]
    ) -> None:
        """Sample all clips and hand the latents (b, 4, T, H', W') of each batch to ``collect``."""
        for start in range(0, len(clips), self.batch_size):
            batch = clips[start : start + self.batch_size]
            prompts, seeds = [clip.prompt for clip in batch], [clip.seed for clip in batch]
            collect(self.pipe.sample_latents(prompts, seeds, progress=False, controller=controller))
            self.finished(len(batch))

    def record(self, clips: Sequence[Clip], probed: Sequence[int]) -> Recording:
        """Run the clips without reuse and once more for every probed step, which reuses the residual before it.

        What is kept is bounded: a sketch of each residual, and the final latents of one batch.
        """
        every_step = tuple(range(self.num_steps))
        grams, powers, effects, errors = [], [], [], []
        for start in range(0, len(clips), self.batch_size):
            batch = clips[start : start + self.batch_size]
            recorder = ResidualRecorder(StaticScheduleConfig(every_step))
            exact = self._latents(batch, recorder)
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

    @contextmanager
    def steps(self, num_steps: int) -> Iterator[None]:
        """Another number of sampling steps for a while."""
        before, self.pipe.scheduler.num_sampling_steps = self.pipe.scheduler.num_sampling_steps, num_steps
        try:
            yield
        finally:
            self.pipe.scheduler.num_sampling_steps = before

    def quality(self, policy: PolicyConfig, clips: Sequence[Clip], exact: Sequence[np.ndarray]) -> Quality:
        """PSNR of every clip under a policy against its frames ``exact``, and the traces."""
        frames: list[np.ndarray] = []
        traces: list[Trace] = []
        controller = StepController(policy)

        def collect(latents: Tensor) -> None:
            frames.extend(self.pipe.decode(latents, progress=False))
            traces.extend(controller.traces)

        self.sample(clips, controller, collect)
        return Quality.of(frames, exact, traces)

    def exact_frames(self, clips: Sequence[Clip]) -> list[np.ndarray]:
        """The clips without reuse, (F, H, W, 3) uint8 each."""
        frames: list[np.ndarray] = []
        self.sample(clips, None, lambda latents: frames.extend(self.pipe.decode(latents, progress=False)))
        return frames

    def _latents(self, batch: Sequence[Clip], controller: StepController) -> Tensor:
        kept: list[Tensor] = []
        self.sample(batch, controller, kept.append)
        return kept[0]


@dataclass(frozen=True)
class Quality:
    """Frames of some clips, their PSNR in dB against others, and how their steps went (empty without a cache)."""

    frames: list[np.ndarray]
    psnr: list[float]
    traces: list[Trace]

    @classmethod
    def of(cls, frames: Sequence[np.ndarray], reference: Sequence[np.ndarray], traces: Sequence[Trace] = ()) -> Quality:
        """Measure ``frames`` (one (F, H, W, 3) uint8 array per clip) against ``reference``."""
        return cls(list(frames), [psnr(a, b) for a, b in zip(frames, reference, strict=True)], list(traces))

    def against(self, reference: Sequence[np.ndarray]) -> Quality:
        """The same frames measured against others."""
        return Quality.of(self.frames, reference, self.traces)

    @property
    def mean(self) -> float:
        """Mean PSNR in dB."""
        return float(np.mean(self.psnr))

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for a single clip, of which it cannot be known."""
        return float(np.std(self.psnr, ddof=1) / len(self.psnr) ** 0.5) if len(self.psnr) > 1 else 0.0

    @property
    def reused_cost(self) -> float:
        """Median time of a reused step over that of a computed one."""
        records = [record for trace in self.traces for record in trace.records]
        reused = median(record.milliseconds for record in records if not record.computed)
        return reused / median(record.milliseconds for record in records if record.computed)


def _mean_square(latents: Tensor) -> np.ndarray:
    """(B, ...) -> (B,) float64."""
    return latents.double().square().flatten(1).mean(1).cpu().numpy()
