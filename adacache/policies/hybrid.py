"""A schedule written down beforehand, corrected for each video by what it measures, within a fixed budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import numpy as np

from adacache.options import ReuseOptions
from adacache.policies.base import Measurement, Report
from adacache.policies.static import StaticScheduleConfig
from adacache.sites import METRICS, Metric, metric_sites
from adacache.validation import (
    check_choice,
    check_count,
    check_weight,
    is_finite,
    is_list,
    is_whole,
    whole_numbers,
)

RATIO_LIMIT = 2.0  # beyond it, more or less than expected counts no more


@dataclass(frozen=True)
class HybridConfig(ReuseOptions):
    """A plan of `computed_steps` that every video may bend where its residuals change more or less than expected.

    `computed_steps`, `num_sampling_steps`, `metric`, `metric_blocks` and `motion_strides` are those of
    `StaticScheduleConfig`, but something is always measured. `expected_change` has a number for every sampling step:
    how much the measured residual changes from the step before, sum|previous - current| / sum|previous|, mean over
    videos sampled without reuse; the first entry is not used. `expected_motion` is the mean motion score at every
    step (`adacache.distance`), likewise.

    `distance_weight` and `motion_weight` are the exponents with which the ratios of measured to expected change and
    motion shorten the next interval; 0 turns one off, both 0 give the plan itself. They are off by default: on the
    mini model no correction was better than the plan at as many steps (`scripts/online_study.py`).
    `max_steps_computed` is the budget, None for the length of the plan.

    `motion_budget` e gives videos that move less fewer steps: max_steps_computed - e where the mean ratio of measured
    to expected motion over the first `motion_window` of the run (a fraction) is 1, and e more or less, linear in log2
    of that ratio, between one half and 2. The mean over videos stays at about max_steps_computed - e.

    Raises: ValueError in one sentence that names the option.
    """

    label: ClassVar[str] = "hybrid schedule"

    computed_steps: tuple[int, ...]
    expected_change: tuple[float, ...] | None = None
    expected_motion: tuple[float, ...] | None = None
    num_sampling_steps: int | None = None
    metric: Metric = "t-attn"
    metric_blocks: tuple[int, ...] = (13,)
    distance_weight: float = 0.0
    motion_weight: float = 0.0
    motion_strides: tuple[int, ...] = (1,)
    motion_budget: int = 0
    motion_window: float = 0.25
    max_steps_computed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("metric", self.metric, METRICS)
        object.__setattr__(self, "motion_strides", whole_numbers("motion_strides", self.motion_strides, minimum=1))
        object.__setattr__(self, "computed_steps", self._plan.computed_steps)
        object.__setattr__(self, "metric_blocks", self._plan.metric_blocks)
        check_weight("distance_weight", self.distance_weight)
        check_weight("motion_weight", self.motion_weight)
        if not is_whole(self.motion_budget) or self.motion_budget < 0:
            raise ValueError(f"motion_budget must be a whole number >= 0 (0 turns it off), got {self.motion_budget!r}")
        if not is_finite(self.motion_window) or not 0 < self.motion_window <= 1:
            raise ValueError(f"motion_window must be a fraction of the run above 0, got {self.motion_window!r}")
        if self.max_steps_computed is not None:
            check_count("max_steps_computed", self.max_steps_computed)
        if self.budget <= 2 * self.motion_budget:
            raise ValueError(
                f"motion_budget {self.motion_budget} can take all of the {self.budget} computed steps from a still "
                "video; it must be less than half of max_steps_computed"
            )
        for name, users in (
            ("expected_change", ("distance_weight",)),
            ("expected_motion", ("motion_weight", "motion_budget")),
        ):
            self._check_expected(name, users)

    def _check_expected(self, name: str, users: Sequence[str]) -> None:
        values = getattr(self, name)
        if values is not None:
            object.__setattr__(self, name, _positive_numbers(name, values))
            return
        for user in users:
            if getattr(self, user) > 0:
                raise ValueError(f"{user} {getattr(self, user)} needs {name}, a number for every sampling step")

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Raises: ValueError when the plan, what is expected or the metric do not fit the run or the model."""
        self._plan.validate(num_steps, num_blocks)
        for name in ("expected_change", "expected_motion"):
            values = getattr(self, name)
            if values is not None and len(values) != num_steps:
                raise ValueError(f"{name} has {len(values)} numbers, but the run has {num_steps} steps; give one each")
        if self.budget > num_steps:
            raise ValueError(f"max_steps_computed is {self.budget}, but the run has {num_steps} steps")

    def make_policy(self, num_steps: int) -> "HybridPolicy":
        """A policy for one run of `num_steps`.

        Raises: ValueError when the options do not fit.
        """
        self.validate(num_steps)
        return HybridPolicy(self, num_steps)

    @property
    def budget(self) -> int:
        """The most steps that a video computes."""
        return len(self.computed_steps) if self.max_steps_computed is None else self.max_steps_computed

    @property
    def _plan(self) -> StaticScheduleConfig:
        return StaticScheduleConfig(
            self.computed_steps, self.num_sampling_steps, self.metric, self.metric_blocks, self.motion_strides
        )


class HybridPolicy:
    """The policy of a `HybridConfig`, one video's.

    The plan of n steps in a run of N is read as a curve P from [0, 1] to the steps: P(j / n) is the plan's step j,
    P(1) = N, straight in between. From the computed step k at u, P(u) = k, with B more steps to compute, equal paces
    would advance u by (1 - u) / (B + 1). The measurements divide that by

        rho = (measured change / expected change) ** distance_weight * (motion / expected motion) ** motion_weight,

    held between 1/2 and 2: the next computed step is P of the new u, rounded. With rho = 1 throughout that is the
    plan. Where measurements call for more steps now, fewer are left for later, and the other way round: a step is
    never placed so late that the rest of the budget could not be spent, so a video computes exactly its budget (less
    only where motion raised the budget too late to be spent).

    The expected change over an interval is the sum of its steps' expected changes. A measured one, from end to end, is
    a little less (0 to 7 % over intervals of 1 to 6 steps on the mini model): changes of neighboring steps mostly point
    the same way.
    """

    def __init__(self, config: HybridConfig, num_steps: int) -> None:
        self.observed_sites = metric_sites(config.metric, config.metric_blocks)
        self._config = config
        self._num_steps = num_steps
        self._places = np.linspace(0, 1, len(config.computed_steps) + 1)
        self._steps = [*config.computed_steps, num_steps]
        self._num_computed = 0
        self._last = 0
        self._next = 0
        self._early_motion: list[float] = []  # ratios to the expected motion

    def should_compute(self, step_index: int) -> bool:
        """Whether the last computed step set this one as the next."""
        return step_index == self._next

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """The configured strides where motion decides anything at this step."""
        wanted = self._config.motion_weight > 0 or (self._config.motion_budget > 0 and self._is_early(step_index))
        return self._config.motion_strides if wanted else ()

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Choose the next computed step; several measurements are averaged."""
        config, previous = self._config, self._last
        self._num_computed += 1
        self._last = step_index
        scores = [item.motion for item in measurements if item.motion is not None]
        motion = fmean(scores) / config.expected_motion[step_index] if scores else None
        if motion is not None and self._is_early(step_index):
            self._early_motion.append(motion)
        if not measurements:  # at the first step, or where no frame was generated before
            self._next = self._choose(step_index, 1.0)
            return Report(rate=self._next - step_index)
        distance = fmean(item.distance for item in measurements)
        change = (
            distance / sum(config.expected_change[previous + 1 : step_index + 1]) if config.expected_change else 1.0
        )
        moving = _power(1.0 if motion is None else motion, config.motion_weight)
        self._next = self._choose(step_index, _limited(_power(change, config.distance_weight) * moving))
        per_step = distance / (step_index - previous)
        return Report(per_step, per_step * moving, motion, rate=self._next - step_index)

    def _choose(self, step_index: int, rho: float) -> int:
        left = self._budget(step_index) - self._num_computed
        if left <= 0:
            return self._num_steps
        place = np.interp(step_index, self._steps, self._places)
        wanted = np.interp(place + (1 - place) / (left + 1) / rho, self._places, self._steps)
        return max(step_index + 1, min(round(wanted), self._num_steps - left))

    def _budget(self, step_index: int) -> int:
        """How many steps this video may compute, as far as is known at this step."""
        spread = self._config.motion_budget
        middle = self._config.budget - spread
        if not self._early_motion or self._is_early(step_index):
            return middle
        return middle + round(spread * math.log2(_limited(fmean(self._early_motion))))

    def _is_early(self, step_index: int) -> bool:
        return step_index < self._config.motion_window * self._num_steps


def _power(ratio: float, weight: float) -> float:
    """ratio ** weight, infinite beyond the range of floats."""
    try:
        return ratio**weight
    except OverflowError:
        return math.inf


def _limited(ratio: float) -> float:
    """Held between 1/2 and 2; what is no number, as after a residual that overflowed, asks for more steps: 2."""
    if ratio < 1 / RATIO_LIMIT:
        return 1 / RATIO_LIMIT
    return ratio if ratio <= RATIO_LIMIT else RATIO_LIMIT


def _positive_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Raises: ValueError unless all but the first, which nothing is compared with, are finite and above 0."""
    if not is_list(values) or not all(map(is_finite, values)) or not all(value > 0 for value in values[1:]):
        raise ValueError(f"{name} must be a list of numbers above 0, one for every sampling step, got {values!r}")
    return tuple(float(value) for value in values)
