"""What the steps of a point cost in operations, counted in an untimed run of the point or its policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from adacache import Trace
from adacache.calibration.plan import Clip
from bench.flops import counted_flops
from bench.points import UNCACHED, BenchPoint
from bench.sampler import Sampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepCosts:
    """Operations of a computed and of a reused step, or of each step where they all differ.

    Attributes:
        by_step: operations of each step, for a policy that computes parts of steps; else None.
    """

    computed: float
    reused: float
    by_step: tuple[float, ...] | None

    @classmethod
    def of(cls, flops: Sequence[float], trace: Trace | None) -> Self:
        """Make costs from the operations of each model call in a run, and its trace (None if all steps are computed).

        If reused steps need no call of the model, `flops` has a value for each computed step only.
        """
        if trace is None:
            return cls(fmean(flops), 0.0, None)
        if len(flops) < len(trace.records):
            counts = iter(flops)
            flops = [next(counts) if record.computed else 0.0 for record in trace.records]
        pairs = list(zip(flops, trace.records, strict=True))
        # A policy that reuses single branches computes another share of each step, the same in all videos.
        by_step = None if all(record.computed_share is None for record in trace.records) else tuple(flops)
        computed = [count for count, record in pairs if record.computed]
        reused = [count for count, record in pairs if not record.computed]
        return cls(fmean(computed), fmean(reused) if reused else 0.0, by_step)

    def flops(self, trace: Trace | None, num_steps: int) -> float:
        """Return the operations of another run of the same point, or of the same policy at another budget."""
        if self.by_step is not None:
            return sum(self.by_step)
        num_computed = num_steps if trace is None else trace.num_computed
        return num_computed * self.computed + (num_steps - num_computed) * self.reused


@dataclass(frozen=True)
class Costs:
    """Costs of all points.

    Attributes:
        uncached: of a run without reuse, whose computed step is the unit of compute.
        counted: by key of a point, or by name of a policy for all its points.
    """

    uncached: StepCosts
    counted: Mapping[str, StepCosts]

    def of(self, key: str) -> StepCosts:
        """Return the costs of a point by its key."""
        policy = key.split("@")[0].split("#")[0]
        return self.counted.get(key) or self.counted.get(policy) or self.uncached


def warm_up(
    sampler: Sampler, points: Sequence[BenchPoint], clip: Clip, finished: Callable[[str], object] = lambda _: None
) -> Costs:
    """Run a clip once without reuse and once per policy, and count operations.

    Steps of one policy cost the same at all budgets, so only its cheapest point is run; policies without budgets run
    all of theirs.

    Args:
        finished: called after every video with the name of its policy.
    """
    counted = {}
    for name, point in {UNCACHED: BenchPoint(UNCACHED), **to_count(points)}.items():
        counted[name] = _count(sampler, point, clip)
        if sampler.pipe.config.compile:
            sampler.sample(point, clip)  # while counting, nothing was compiled
        finished(point.policy)
    return Costs(counted.pop(UNCACHED), counted)


def to_count(points: Sequence[BenchPoint]) -> dict[str, BenchPoint]:
    """Return the points to count, by the name under which `Costs` finds them; runs without a cache need none."""
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
