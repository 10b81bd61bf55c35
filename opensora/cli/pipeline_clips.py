"""Clips of the sampling pipeline, as a calibration asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from adacache import StepController
from adacache.calibration.clips import Clip

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline


@dataclass(frozen=True)
class PipelineClips:
    """An `adacache.calibration.runner.ClipSampler`; the pipeline's own cache is left alone."""

    pipe: SamplingPipeline

    @property
    def num_steps(self) -> int:
        """Steps of every run as a cache counts them: calls of the model."""
        return self.pipe.scheduler.num_model_calls

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Final latents (B, 4, T, H', W').

        Raises:
            SamplingError: they are not finite.
        """
        prompts, seeds = [clip.prompt for clip in clips], [clip.seed for clip in clips]
        return self.pipe.sample_latents(prompts, seeds, progress=False, controller=controller)

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """The same as videos, (F, H, W, 3) uint8 each.

        Raises:
            SamplingError: latents or pixels are not finite.
        """
        return list(self.pipe.decode(self.latents(clips, controller), progress=False))

    @contextmanager
    def steps(self, num_steps: int) -> Iterator[None]:
        """Another number of sampling steps for a while."""
        before, self.pipe.scheduler.num_sampling_steps = self.pipe.scheduler.num_sampling_steps, num_steps
        try:
            yield
        finally:
            self.pipe.scheduler.num_sampling_steps = before
