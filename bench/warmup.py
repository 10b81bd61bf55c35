"""Untimed first runs: they wake the device up, count the operations of steps, and say how long videos take."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from adacache.calibration.plan import Clip
from bench.costs import Costs, StepCosts
from bench.flops import counted_flops
from bench.points import UNCACHED, BenchPoint
from bench.sampler import Sampler

logger = logging.getLogger(__name__)


def warm_up(
    sampler: Sampler,
    points: Sequence[BenchPoint],
    clip: Clip,
    measure: Callable[[np.ndarray, Clip], object],
    finished: Callable[[str], object],
) -> Costs:
    """Run a clip once without reuse and once per policy, and count.

    Steps of one policy cost the same at all budgets, so one of its points is run, the cheapest one; policies without
    budgets run all of theirs.

    Args:
        measure: what is done with the frames of every video.
        finished: is called after every video with the name of its policy.
    """
    uncached = BenchPoint(UNCACHED)
    counted_uncached = _count(sampler, uncached, clip)
    plain = sampler.sample(uncached, clip)
    started = time.perf_counter()
    measure(plain.frames, clip)
    measured = time.perf_counter() - started
    finished(uncached.policy)
    counted = {}
    for name, point in _representatives(points).items():
        counted[name] = _count(sampler, point, clip)
        if sampler.pipe.config.compile:
            sampler.sample(point, clip)  # while counting, nothing was compiled
        finished(point.policy)
    return Costs(
        uncached=counted_uncached,
        counted=counted,
        step_seconds=plain.denoise_seconds / plain.num_steps,
        video_seconds=plain.decode_seconds + measured,
    )


def _representatives(points: Sequence[BenchPoint]) -> dict[str, BenchPoint]:
    """Points to count, by the name under which `Costs` finds them; runs without a cache need none."""
    cached = [point for point in points if point.cache is not None]
    chosen = {point.key: point for point in cached if point.budget is None}
    by_budget = [point for point in cached if point.budget is not None]
    for point in sorted(by_budget, key=lambda point: point.budget):
        chosen.setdefault(point.policy, point)
    return chosen


def _count(sampler: Sampler, point: BenchPoint, clip: Clip) -> StepCosts:
    sampler.prepare(clip)
    with counted_flops(sampler.pipe.model) as flops:
        sampled = sampler.sample(point, clip)
    costs = StepCosts.of(flops, sampled.trace)
    logger.debug("%s: %.3g FLOP a computed step, %.3g a reused one", point.key, costs.computed, costs.reused)
    return costs
