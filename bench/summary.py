"""The content of bench.json: all finished clips, as means with intervals and differences at equal compute.

Values of a quantity are `{prompt index: mean over the prompt's seeds}`; intervals are drawn over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from bench.compare.bootstrap import interval
from bench.log import VideoRow
from bench.measure import quality_metrics
from bench.plan import BenchPlan
from bench.points import BenchPoint
from bench.run import Work
from bench.setting import BenchClip

ByPrompt = Mapping[int, float]

BEYOND = 0.3  # steps by which a curve is used beyond its ends, with the value of the end


class Estimate(NamedTuple):
    """A mean over prompts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class CurvePoint(NamedTuple):
    """A policy at one setting: mean compute in steps, and a quantity's values."""

    compute: float
    values: ByPrompt


@dataclass(frozen=True)
class Measured:
    """A point and its measured videos, in the order of the clips."""

    point: BenchPoint
    rows: tuple[VideoRow, ...]
    prompts: tuple[int, ...]  # index of the prompt of each

    @cached_property
    def keys(self) -> list[str]:
        """Quantities that every video has."""
        return [key for key in self.rows[0].values if all(key in row.values for row in self.rows)]

    def by_prompt(self, key: str) -> ByPrompt:
        """Return the means of a quantity over the seeds of each prompt."""
        return self._means([row.values[key] for row in self.rows])

    def speedup(self, uncached: Measured) -> Estimate:
        """Return how many times as fast denoising is, in pairs of videos of one prompt and seed."""
        logs = []
        for other, own in zip(uncached.rows, self.rows, strict=True):
            seconds = own.uncached_seconds or other.values["denoise_seconds"]
            logs.append(float(np.log(seconds / own.values["denoise_seconds"])))
        return mean_ratio({prompt: float(np.exp(mean)) for prompt, mean in self._means(logs).items()})

    def curve_point(self, key: str) -> CurvePoint:
        """Return the mean compute, and a quantity's values by prompt."""
        return CurvePoint(self.mean("compute"), self.by_prompt(key))

    def mean(self, key: str) -> float:
        """Return the mean of a quantity over prompts."""
        return float(np.mean(list(self.by_prompt(key).values())))

    def _means(self, values: Sequence[float]) -> ByPrompt:
        groups: dict[int, list[float]] = {}
        for prompt, value in zip(self.prompts, values, strict=True):
            groups.setdefault(prompt, []).append(value)
        return {prompt: float(np.mean(group)) for prompt, group in groups.items()}


def measured_points(work: Work, clips: Sequence[BenchClip]) -> tuple[list[Measured], list[Measured]]:
    """Return all references, and all points, with their videos of the `clips`, which must be finished."""

    def of(point: BenchPoint) -> Measured:
        return Measured(
            point, tuple(work.log.get(clip, point) for clip in clips), tuple(clip.prompt_index for clip in clips)
        )

    return [of(point) for point in work.references], [of(point) for point in work.points]


def summarize(
    plan: BenchPlan, work: Work, clips: Sequence[BenchClip], num_steps: int, details: Mapping[str, Any]
) -> dict[str, Any]:
    """Return bench.json of the finished `clips`; `details` are its entries on the machine, the setting and so on."""
    references, points = measured_points(work, clips)
    uncached = references[0]
    keys = dict.fromkeys(key for measured in points for key in measured.keys)
    metrics = quality_metrics(keys, plan.exact_steps)
    with_points = {measured.point.policy for measured in points}
    return {
        "title": plan.title,
        **details,
        "metrics": metrics,
        "baseline": plan.baseline,
        "best": plan.best if plan.best in with_points else None,
        "policies": [
            {name: getattr(policy, name) for name in ("name", "title", "ours", "about", "source")}
            for policy in plan.policies
            if policy.name in with_points or policy.name == plan.baseline
        ],
        "points": [_point(measured, points, uncached, metrics, plan) for measured in points],
        "references": [
            {
                "name": measured.point.policy,
                "title": _reference_title(measured.point, num_steps),
                "values": _values(measured, uncached),
            }
            for measured in references
        ],
        "showcase": _showcase(work, clips),
    }


def _point(
    own: Measured,
    points: Sequence[Measured],
    uncached: Measured,
    metrics: Sequence[Mapping[str, Any]],
    plan: BenchPlan,
) -> dict[str, Any]:
    present = [metric for metric in metrics if metric["key"] in own.keys]
    return {
        "policy": own.point.policy,
        "budget": own.point.budget,
        "options": own.point.options,
        "num_videos": len(own.rows),
        "values": _values(own, uncached),
        "gain": _differences(own, points, plan.baseline, present),
        "to_best": _differences(own, points, plan.best, present),
        "worst": {
            metric["key"]: (min if metric["better"] == "higher" else max)(row.values[metric["key"]] for row in own.rows)
            for metric in present
        },
    }


def _differences(
    own: Measured, points: Sequence[Measured], other: str | None, metrics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the paired differences to another policy at equal compute, by metric; None where its curve ends."""
    if own.point.policy == other:
        return {metric["key"]: None for metric in metrics}
    curve = [measured for measured in points if measured.point.policy == other]
    result: dict[str, Any] = {}
    for metric in metrics:
        key = metric["key"]
        usable = [measured.curve_point(key) for measured in curve if key in measured.keys]
        found = difference(own.curve_point(key), usable)
        result[key] = None if found is None else found._asdict()
    return result


def _values(measured: Measured, uncached: Measured) -> dict[str, Any]:
    values = {key: estimate(measured.by_prompt(key))._asdict() for key in measured.keys}
    return values | {"speedup": measured.speedup(uncached)._asdict()}


def _reference_title(point: BenchPoint, num_steps: int) -> str:
    solver = "" if point.solver is None else f" ({point.solver})"
    return f"Uncached, {point.num_steps or num_steps} steps{solver}"


def _showcase(work: Work, clips: Sequence[BenchClip]) -> list[dict[str, Any]]:
    """Return the scenes of the showcase with those of their videos whose files exist."""
    scenes = []
    for clip in clips:
        if not work.showcase.has_clip(clip):
            continue
        videos = []
        for point, budget in work.showcase.shown:
            row = work.log.get(clip, point)
            if row is None or row.steps is None or work.showcase.lacks(clip, point):
                continue
            videos.append(
                {
                    "policy": point.policy,
                    "budget": budget,
                    "file": work.showcase.file(clip, point),
                    "values": dict(row.values),
                    "steps": row.steps,
                }
            )
        if videos:
            scenes.append({"prompt": clip.prompt, "seed": clip.seed, "videos": videos})
    return scenes


def estimate(values: ByPrompt) -> Estimate:
    """Return the mean over prompts with its interval.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    return Estimate(*interval(list(values.values())))


def mean_ratio(ratios: ByPrompt) -> Estimate:
    """Return the geometric mean of ratios above 0: twice as fast and half as fast cancel."""
    logs = estimate({prompt: math.log(ratio) for prompt, ratio in ratios.items()})
    return Estimate(*map(math.exp, logs))


def at_compute(curve: Sequence[CurvePoint], compute: float) -> ByPrompt | None:
    """Interpolate a policy's values by prompt at `compute`, on the line through its nearest points around it.

    Return None where its curve does not reach; up to `BEYOND` steps beyond an end, it has the value of the end.
    """
    points = sorted(curve, key=lambda point: point.compute)
    if not points or not points[0].compute - BEYOND <= compute <= points[-1].compute + BEYOND:
        return None
    compute = min(max(compute, points[0].compute), points[-1].compute)
    upper = next(i for i, point in enumerate(points) if point.compute >= compute)
    right, left = points[upper], points[max(0, upper - 1)]
    width = right.compute - left.compute
    weight = (compute - left.compute) / width if width else 1.0
    return {
        prompt: (1 - weight) * left.values[prompt] + weight * right.values[prompt]
        for prompt in left.values.keys() & right.values.keys()
    }


def difference(point: CurvePoint, curve: Sequence[CurvePoint]) -> Estimate | None:
    """Return a point minus another policy's curve at the same compute, by prompt; None where the curve ends."""
    other = at_compute(curve, point.compute)
    if other is None:
        return None
    paired = {prompt: value - other[prompt] for prompt, value in sorted(point.values.items()) if prompt in other}
    return estimate(paired) if paired else None
