"""From a sampled video to the numbers that are kept of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adacache import Trace
from adacache.trace import StepRecord
from bench.compare.captions import caption_scores
from bench.compare.metrics import Metrics
from bench.costs import Costs
from bench.points import EXACT, UNCACHED, BenchPoint
from bench.quantities import EXACT_SUFFIX, from_metrics
from bench.sampler import Sampled

MEGA = 1e6
TERA = 1e12
_STEP_FIELDS = (
    *("index", "timestep", "computed", "computed_share"),
    *("distance", "value", "rate", "milliseconds", "bridge_weight"),
)


@dataclass(frozen=True)
class Reference:
    """Frames (F, H, W, 3) uint8 to compare videos of the same clip with, and what its metrics' names end with."""

    frames: np.ndarray
    suffix: str = ""


class Meter:
    """Measures videos; what it does is not timed.

    Args:
        fps: frames per second of the videos.
        check_captions: whether prompts are captions of the mini model's world.
    """

    def __init__(self, fps: float, check_captions: bool) -> None:
        self._metrics = Metrics()
        self._fps = fps
        self._check_captions = check_captions

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on metrics that were left out."""
        return self._metrics.notes

    def note_size(self, height: int, width: int) -> None:
        """Note what is left out of videos of this size, also where none was measured any more."""
        blank = np.zeros((1, height, width, 3), np.uint8)
        self._metrics.compare(blank, blank, self._fps)

    def quality(self, frames: np.ndarray, prompt: str, references: Sequence[Reference]) -> dict[str, float]:
        """Metrics of a video's frames against each reference, and the caption check where there is one."""
        values: dict[str, float] = {}
        for reference in references:
            values |= from_metrics(self._metrics.compare(frames, reference.frames, self._fps), reference.suffix)
        return values | (from_metrics(caption_scores(frames, prompt)) if self._check_captions else {})


def references_of(point: BenchPoint, frames: dict[str, np.ndarray]) -> list[Reference]:
    """What a point's videos are compared with; a reference not with itself, and the exact one with nothing.

    ``frames`` are those of the references by name.
    """
    if point.policy == EXACT:
        return []
    exact = [Reference(frames[EXACT], EXACT_SUFFIX)]
    return exact if point.policy == UNCACHED else [Reference(frames[UNCACHED]), *exact]


def cost_values(point: BenchPoint, sampled: Sampled, costs: Costs) -> dict[str, float]:
    """Time, operations and memory of a video."""
    flops = costs.of(point.key).flops(sampled.trace, sampled.num_steps)
    values = {
        "computed_steps": computed_steps(sampled.trace, sampled.num_steps),
        "compute": flops / costs.uncached.computed,
        "denoise_seconds": sampled.denoise_seconds,
        "total_seconds": sampled.denoise_seconds + sampled.decode_seconds,
        "tflops": flops / TERA,
        "cache_mb": sampled.cache_bytes / MEGA,
    }
    return values if sampled.peak_bytes is None else values | {"peak_mb": sampled.peak_bytes / MEGA}


def computed_steps(trace: Trace | None, num_steps: int) -> float:
    """How many steps were computed; a step of which a part was counts as that part."""
    if trace is None:
        return float(num_steps)
    return float(
        sum(record.computed if record.computed_share is None else record.computed_share for record in trace.records)
    )


def step_records(trace: Trace | None, timesteps: Sequence[float]) -> list[dict[str, Any]]:
    """A record per step for readers; without a trace every step of a run with these ``timesteps`` was computed."""
    computed = [StepRecord(index, timestep, True) for index, timestep in enumerate(timesteps)]
    records = computed if trace is None else trace.records
    return [{name: _finite(getattr(record, name)) for name in _STEP_FIELDS} for record in records]


def _finite(value: Any) -> Any:
    """The value, None instead of NaN and infinities, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
