"""What the steps of a point cost, in operations and in time, known from one run of it or of its like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Self

from adacache import Trace


@dataclass(frozen=True)
class StepCosts:
    """Operations of a computed and of a reused step; where every step has its own, of each.

    Attributes:
        reused_time: of a reused step over that of a computed one.
        num_computed: steps that the counted run computed.
    """

    computed: float
    reused: float
    by_step: tuple[float, ...] | None
    reused_time: float
    num_computed: int

    @classmethod
    def of(cls, flops: Sequence[float], trace: Trace | None) -> Self:
        """From the operations of each step of a run, and its trace (None where every step was computed)."""
        if trace is None:
            return cls(fmean(flops), 0.0, None, 1.0, len(flops))
        pairs = list(zip(flops, trace.records, strict=True))
        # A policy of branches computes another share of each step, the same in all videos.
        by_step = None if all(record.computed_share is None for record in trace.records) else tuple(flops)
        computed = [count for count, record in pairs if record.computed]
        reused = [count for count, record in pairs if not record.computed]
        times = [[r.milliseconds for r in trace.records if r.computed is is_computed] for is_computed in (True, False)]
        return cls(
            computed=fmean(computed),
            reused=fmean(reused) if reused else 0.0,
            by_step=by_step,
            reused_time=median(times[1]) / median(times[0]) if times[1] else 1.0,
            num_computed=len(computed),
        )

    def flops(self, trace: Trace | None, num_steps: int) -> float:
        """Operations of another run of the same point, or of the same policy at another budget."""
        if self.by_step is not None:
            return sum(self.by_step)
        num_computed = num_steps if trace is None else trace.num_computed
        return num_computed * self.computed + (num_steps - num_computed) * self.reused


@dataclass(frozen=True)
class Costs:
    """Costs of all points, and of what comes with every video.

    Attributes:
        uncached: of a run without reuse, whose computed step is the unit of compute.
        counted: by key of a point, or by name of a policy for all its points.
        step_seconds: of a computed step.
        video_seconds: decoding and measuring a video.
    """

    uncached: StepCosts
    counted: Mapping[str, StepCosts]
    step_seconds: float
    video_seconds: float

    def of(self, key: str) -> StepCosts:
        """Costs of a point by its key."""
        policy = key.split("@")[0].split("#")[0]
        return self.counted.get(key) or self.counted.get(policy) or self.uncached

    def seconds(self, key: str, budget: int | None, num_steps: int) -> float:
        """About how long a video of a point takes, with all that is measured on it; ``num_steps`` are sampled."""
        costs = self.of(key)
        if costs.by_step is not None:
            steps = sum(costs.by_step) / self.uncached.computed
        else:
            num_computed = costs.num_computed if budget is None else budget
            steps = num_computed + (num_steps - num_computed) * costs.reused_time
        return steps * self.step_seconds + self.video_seconds
