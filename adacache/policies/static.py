"""A schedule written down beforehand: the control that an adaptive policy has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

from adacache.policies.base import Measurement, Report
from adacache.sites import SiteGroup
from adacache.validation import check_count, whole_numbers


@dataclass(frozen=True)
class StaticScheduleConfig:
    """Which steps are computed, whatever the video shows; `computed_steps` are 0-based and begin with 0.

    Raises: ValueError when they do not ascend from 0.
    """

    computed_steps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = whole_numbers("computed_steps", self.computed_steps, minimum=0)
        if steps[0] != 0 or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"computed_steps must ascend from 0, the first step, got {list(steps)}")
        object.__setattr__(self, "computed_steps", steps)

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Raises: ValueError when a step lies outside of a run of `num_steps`."""
        check_count("num_steps", num_steps)
        if self.computed_steps[-1] >= num_steps:
            raise ValueError(
                f"computed_steps reach to {self.computed_steps[-1]}, but the run has steps 0 to {num_steps - 1}"
            )

    def make_policy(self, num_steps: int) -> "StaticSchedule":
        """A policy for one run of `num_steps`.

        Raises: ValueError when a step lies outside.
        """
        self.validate(num_steps)
        return StaticSchedule(self.computed_steps, num_steps)


class StaticSchedule:
    """The policy of a `StaticScheduleConfig`: it measures nothing."""

    observed_sites: tuple[SiteGroup, ...] = ()

    def __init__(self, computed_steps: Sequence[int], num_steps: int) -> None:
        self._computed = frozenset(computed_steps)
        self._ends = [*computed_steps[1:], num_steps]

    def should_compute(self, step_index: int) -> bool:
        """Whether the step is on the list."""
        return step_index in self._computed

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """None: no motion is measured."""
        return ()

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Report how many steps the residual of this one serves."""
        return Report(rate=min(end for end in self._ends if end > step_index) - step_index)
