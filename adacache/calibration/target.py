"""What a user asks for, turned into a schedule: a speedup, a number of computed steps, or a quality."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adacache.calibration.calibration import LEAST_COMPUTED, Calibration
from adacache.calibration.quality import EQUAL_DB
from adacache.policies.static import StaticScheduleConfig
from adacache.validation import check_count, check_positive

logger = logging.getLogger(__name__)

TARGETS = ("speedup", "max_steps_computed", "min_psnr")


@dataclass(frozen=True)
class Target:
    """What a user asks for: a speedup, a number of computed steps, or a quality.

    `kind` is "speedup" (how many times as fast denoising should be as with every step computed), "max_steps_computed"
    (steps per video) or "min_psnr" (dB against what the calibration aims at, mean over videos).

    Raises:
        ValueError: no model could meet the value.
    """

    kind: Literal["speedup", "max_steps_computed", "min_psnr"]
    value: float

    def __post_init__(self) -> None:
        if self.kind == "max_steps_computed":
            check_count(self.kind, self.value)
        else:
            check_positive(self.kind, self.value)
        if self.kind == "speedup" and self.value < 1:
            raise ValueError(f"speedup must be at least 1, got {self.value!r}")

    def resolve(self, calibration: Calibration, timesteps: Sequence[float]) -> StaticScheduleConfig:
        """Return the schedule that meets the target in a run with these `timesteps`.

        A quality is met with as few computed steps as possible, the other targets with as many. A warning says when the
        schedule lies outside of what was measured.

        Raises:
            ValueError: the target cannot be met; the message says what can.
        """
        num_steps = len(timesteps)
        self.check_possible(num_steps)
        ways = {"speedup": self._speedup, "max_steps_computed": self._max_steps_computed, "min_psnr": self._min_psnr}
        count = ways[self.kind](calibration, num_steps)
        _warn(calibration, count, timesteps)
        return calibration.schedule(count, timesteps)

    def check_possible(self, num_steps: int) -> None:
        """Refuse, with a ValueError, a target that no calibration of a run of `num_steps` could meet."""
        if num_steps <= LEAST_COMPUTED:
            raise ValueError(f"{self.kind} has nothing to choose from in a run of {num_steps} steps; remove it")
        if self.kind == "max_steps_computed" and not LEAST_COMPUTED <= self.value <= num_steps:
            raise ValueError(
                f"max_steps_computed is {self.value}, but a run of {num_steps} steps computes "
                f"{LEAST_COMPUTED} to {num_steps}; give a number in between"
            )
        fastest = num_steps / LEAST_COMPUTED
        if self.kind == "speedup" and self.value > fastest:
            raise ValueError(
                f"speedup {self.value:g} cannot be reached: a run of {num_steps} steps computes at least "
                f"{LEAST_COMPUTED}, which is {fastest:g}x at most; ask for less"
            )
        if self.kind == "min_psnr" and self.value > EQUAL_DB:
            raise ValueError(
                f"min_psnr {self.value:g} dB is above {EQUAL_DB:g} dB, which stands for equal videos; ask for less"
            )

    def _max_steps_computed(self, calibration: Calibration, num_steps: int) -> int:
        return max(count for count in calibration.counts(num_steps) if count <= self.value)

    def _speedup(self, calibration: Calibration, num_steps: int) -> int:
        counts = calibration.counts(num_steps)
        for count in reversed(counts):
            if calibration.speedup(count, num_steps) >= self.value:
                return count
        raise ValueError(
            f"speedup {self.value:g} cannot be reached: {counts[0]} computed steps of {num_steps} give "
            f"{calibration.speedup(counts[0], num_steps):.1f}x; ask for less"
        )

    def _min_psnr(self, calibration: Calibration, num_steps: int) -> int:
        first, last = (len(calibration.measured[i].computed_steps) for i in (0, -1))
        counts = [count for count in calibration.counts(num_steps) if first <= count <= last]
        for count in counts:
            if calibration.psnr(count) >= self.value:
                return count
        problem = f"min_psnr {self.value:g} dB cannot be promised"
        if not counts:
            raise ValueError(
                f"{problem} for a run of {num_steps} steps: the calibration measured {first} to {last} computed ones; "
                "compute every step (no cache)"
            )
        best = max(counts, key=calibration.psnr)
        raise ValueError(
            f"{problem}: the calibration measured up to {calibration.psnr(best):.1f} dB, with {best} computed steps "
            f"of this run's {num_steps}; ask for less, or compute every step (no cache)"
        )


def read_target(values: dict[str, Any]) -> Target | None:
    """Return the one target among config entries by name, or None if all are None.

    Raises:
        ValueError: several are given, or the value is out of range.
    """
    given = {name: values[name] for name in TARGETS if values.get(name) is not None}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} cannot be combined; give only one of them")
    return next((Target(kind, value) for kind, value in given.items()), None)


def _warn(calibration: Calibration, count: int, timesteps: Sequence[float]) -> None:
    num_steps = len(timesteps)
    if count == num_steps:
        return  # every step is computed, so there is no loss
    if num_steps == calibration.num_steps and not calibration.fits(timesteps):
        logger.warning(
            "The calibration was measured with %d steps at other times than this run's: the schedule is carried over "
            "along the flow's time, and its quality is an extrapolation.",
            num_steps,
        )
    if num_steps != calibration.num_steps:
        logger.warning(
            "The calibration was measured with %d sampling steps, but this run has %d: the schedule is carried over "
            "along the flow's time, and its quality is an extrapolation.",
            calibration.num_steps,
            num_steps,
        )
    first, last = (len(calibration.measured[i].computed_steps) for i in (0, -1))
    if not first <= count <= last:
        logger.warning(
            "%d computed steps lie outside the %d to %d that were measured: their quality is an extrapolation.",
            count,
            first,
            last,
        )
