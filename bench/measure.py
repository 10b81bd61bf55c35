"""Turn a sampled video into the numbers that are kept of it, and name them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adacache import Trace
from adacache.trace import StepRecord
from bench.compare.metric_info import METRICS, MetricInfo
from bench.compare.metrics import Metrics, caption_scores
from bench.costs import Costs
from bench.points import EXACT, UNCACHED, BenchPoint
from bench.sampler import Sampled

MEGA = 1e6
TERA = 1e12
_STEP_FIELDS = (
    *("index", "timestep", "computed", "computed_share"),
    *("distance", "value", "rate", "milliseconds", "bridge_weight"),
)


@dataclass(frozen=True)
class Reference:
    """Frames (F, H, W, 3) uint8 to compare videos of the same clip with, and the suffix of the metrics' names."""

    frames: np.ndarray
    suffix: str = ""


class Meter:
    """Measures the quality of videos; this is not timed."""

    def __init__(self) -> None:
        self._metrics = Metrics()

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on metrics that were left out."""
        return self._metrics.notes

    def note_size(self, height: int, width: int) -> None:
        """Add the notes on metrics that videos of this size lack, even if none was measured in this process."""
        blank = np.zeros((1, height, width, 3), np.uint8)
        self._metrics.compare(blank, blank)

    def quality(self, frames: np.ndarray, prompt: str, references: Sequence[Reference]) -> dict[str, float]:
        """Return the metrics of a video's frames against each reference, and the caption check where it applies."""
        values: dict[str, float] = {}
        for reference in references:
            values |= from_metrics(self._metrics.compare(frames, reference.frames), reference.suffix)
        return values | from_metrics(caption_scores(frames, prompt))


def references_of(point: BenchPoint, frames: dict[str, np.ndarray]) -> list[Reference]:
    """Return what a point's videos are compared with: no reference with itself, and the exact one with nothing.

    `frames` has the frames of the references by name.
    """
    if point.policy == EXACT:
        return []
    exact = [Reference(frames[EXACT], EXACT_SUFFIX)]
    return exact if point.policy == UNCACHED else [Reference(frames[UNCACHED]), *exact]


def cost_values(point: BenchPoint, sampled: Sampled, costs: Costs) -> dict[str, float]:
    """Return time, operations and memory of a video."""
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
    """Return how many steps were computed; a step computed in part counts as that part."""
    if trace is None:
        return float(num_steps)
    return float(
        sum(record.computed if record.computed_share is None else record.computed_share for record in trace.records)
    )


def step_records(trace: Trace | None, timesteps: Sequence[float]) -> list[dict[str, Any]]:
    """Return a record per step for readers; without a trace, every one of the `timesteps` was computed."""
    computed = [StepRecord(index, timestep, True) for index, timestep in enumerate(timesteps)]
    records = computed if trace is None else trace.records
    return [{name: _finite(getattr(record, name)) for name in _STEP_FIELDS} for record in records]


def _finite(value: Any) -> Any:
    """Return the value, or None instead of NaN and infinities, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


EXACT_SUFFIX = "_exact"  # of metrics against the video of many steps
# Metrics of a video by itself; all others compare it with a reference.
CAPTION_KEYS = ("caption_items", "caption_right")


def from_metrics(values: dict[str, float], suffix: str = "") -> dict[str, float]:
    """Turn the metrics of one comparison into quantities of a video: one that should be 0 becomes its distance from 0.

    Values that are not finite are left out.
    """
    return {
        key + suffix: abs(value) if METRICS[key].better == "zero" else value
        for key, value in values.items()
        if key in METRICS and math.isfinite(value)
    }


def quality_metrics(keys: Iterable[str], exact_steps: int) -> list[dict[str, Any]]:
    """Return what a report has to know about each metric among `keys`, PSNR to the uncached video first."""
    present = set(keys)
    described = []
    for suffix, reference in (("", "uncached"), (EXACT_SUFFIX, f"{exact_steps} steps")):
        for key, info in METRICS.items():
            if key + suffix in present:
                described.append(_described(info, suffix, reference))
    return described


def _described(info: MetricInfo, suffix: str, reference: str) -> dict[str, Any]:
    if info.key in CAPTION_KEYS:
        title = info.title.capitalize()
    else:
        title = f"{info.title[0].upper()}{info.title[1:]} to {reference}"
    about = info.about[0].upper() + info.about[1:] + "."
    if info.better == "zero":
        info = replace(info, better="lower")
        about += " Its absolute value."
    if suffix:
        about += f" Against the uncached video of {reference}, of the same prompt and seed."
    return {
        "key": info.key + suffix,
        "title": title,
        "unit": info.unit,
        "digits": info.digits,
        "better": info.better,
        "about": about,
    }
