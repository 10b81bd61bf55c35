"""Means, differences at equal compute and the front: arithmetic on values by prompt.

Values of a quantity are ``{prompt index: mean over the prompt's seeds}``; intervals are drawn over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.compare.bootstrap import interval

ByPrompt = Mapping[int, float]

BEYOND = 0.3  # steps that a curve is used beyond its ends, with the value of the end
CHEAPER = 0.25  # steps by which a rival on the front may cost more


class Estimate(NamedTuple):
    """A mean over prompts with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class CurvePoint(NamedTuple):
    """A policy at one setting: mean compute in steps, and a quantity's values."""

    compute: float
    values: ByPrompt


def estimate(values: ByPrompt) -> Estimate:
    """The mean over prompts.

    Raises:
        ValueError: there is no value, or one that is not finite.
    """
    return Estimate(*interval(list(values.values())))


def mean_ratio(ratios: ByPrompt) -> Estimate:
    """The geometric mean of ratios above 0: twice as fast and half as fast cancel."""
    logs = estimate({prompt: math.log(ratio) for prompt, ratio in ratios.items()})
    return Estimate(*map(math.exp, logs))


def at_compute(curve: Sequence[CurvePoint], compute: float) -> ByPrompt | None:
    """What a policy has at ``compute`` for every prompt, on the line through its nearest points around it.

    None where its curve does not reach; shortly beyond an end it has the value of the end.
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
    """A point minus another policy's curve at its compute, prompt by prompt; None where that cannot be said."""
    other = at_compute(curve, point.compute)
    if other is None:
        return None
    paired = {prompt: value - other[prompt] for prompt, value in sorted(point.values.items()) if prompt in other}
    return estimate(paired) if paired else None


def on_front(own: tuple[str, float, float], points: Sequence[tuple[str, float, float]]) -> bool:
    """Whether no other policy has a larger mean at about as little compute; points are (policy, compute, mean)."""
    policy, compute, mean = own
    return not any(
        other_mean > mean and other_compute <= compute + CHEAPER
        for other, other_compute, other_mean in points
        if other != policy
    )
