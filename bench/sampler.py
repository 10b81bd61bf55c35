"""Sample one timed video: a point applied to a clip, with texts encoded beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from adacache import RunObserver, StepController, Trace
from adacache.calibration.plan import Clip
from bench.points import BenchPoint
from opensora.models.text_encoder.encoded_text import CachedTextEncoder

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline


@dataclass(frozen=True)
class Sampled:
    """A video and what it took.

    Attributes:
        frames: (F, H, W, 3) uint8.
        denoise_seconds: of all sampling steps, without text encoding and decoding.
        decode_seconds: from latents to frames.
        num_steps: sampling steps of the run.
        trace: None if every step was computed without a cache.
        cache_bytes: most bytes that the cache held at the end of a step.
        peak_bytes: most bytes that tensors took on the GPU while denoising; None on a CPU.
    """

    frames: np.ndarray
    denoise_seconds: float
    decode_seconds: float
    num_steps: int
    trace: Trace | None
    cache_bytes: int
    peak_bytes: int | None


class CacheBytes(RunObserver):
    """Records the most bytes that a controller held at the end of a step, without waiting for the device."""

    def __init__(self) -> None:
        self.most = 0
        self._controller: StepController | None = None

    def begin_run(self, controller: StepController, num_steps: int, num_samples: int) -> None:
        """Start at 0 bytes."""
        self.most, self._controller = 0, controller

    def begin_step(self, step_index: int) -> None:
        """Measure after the previous step."""
        self.most = max(self.most, self._controller.nbytes)

    def end_run(self) -> None:
        """Measure after the last step."""
        self.most = max(self.most, self._controller.nbytes)


class Sampler:
    """Samples clips one at a time; it replaces the pipeline's text encoder with one that remembers texts.

    Attributes:
        pipe: the pipeline, whose own cache is not used.
    """

    def __init__(self, pipe: SamplingPipeline) -> None:
        self.pipe = pipe
        if not isinstance(pipe.text_encoder, CachedTextEncoder):
            pipe.text_encoder = CachedTextEncoder(pipe.text_encoder)

    def sample(self, point: BenchPoint, clip: Clip) -> Sampled:
        """Sample one video and measure what it takes.

        Raises:
            SamplingError: latents or pixels are not finite.
        """
        self.prepare(clip)
        cache_bytes = CacheBytes()
        controller = None if point.cache is None else StepController(point.cache, observers=[cache_bytes])
        with self._scheduler_of(point):
            num_steps = self.pipe.scheduler.num_model_calls
        device = self.pipe.model.device
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        started = self._now()
        latents = self.sample_latents(point, clip, controller)
        denoised = self._now()
        peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
        [frames] = self.pipe.decode(latents, progress=False)
        return Sampled(
            frames=frames,
            denoise_seconds=denoised - started,
            decode_seconds=self._now() - denoised,
            num_steps=num_steps,
            trace=None if controller is None else controller.trace,
            cache_bytes=cache_bytes.most,
            peak_bytes=peak,
        )

    def _now(self) -> float:
        """Wait for the device, then return the seconds of a monotonic clock."""
        if self.pipe.model.device.type == "cuda":
            torch.cuda.synchronize(self.pipe.model.device)
        return time.perf_counter()

    def prepare(self, clip: Clip) -> None:
        """Encode the clip's text, so that no timed run has to."""
        self.pipe.text_encoder.encode(self.pipe.captions([clip.prompt]))
        self.pipe.text_encoder.null(1)

    def sample_latents(self, point: BenchPoint, clip: Clip, controller: StepController | None) -> Tensor:
        """Return latents (1, 4, T, H', W') of a clip under a point's sampling steps and solver."""
        with self._scheduler_of(point):
            return self.pipe.sample_latents([clip.prompt], [clip.seed], False, controller=controller)

    @contextmanager
    def _scheduler_of(self, point: BenchPoint) -> Iterator[None]:
        """Within the block, use the number of steps and the solver of a point."""
        scheduler = self.pipe.scheduler
        wanted = {"num_sampling_steps": point.num_steps, "solver": point.solver}
        changed = {name: value for name, value in wanted.items() if value is not None}
        before = {name: getattr(scheduler, name) for name in changed}
        try:
            for name, value in changed.items():
                setattr(scheduler, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(scheduler, name, value)
