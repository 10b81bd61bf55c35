"""The outcome of a calibration: a schedule for every number of computed steps, and measurements of some of them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from adacache.atomic import atomic_path
from adacache.calibration.plan import REFERENCES, Aim
from adacache.options import BridgeConfig, plain
from adacache.policies.multistep import Coefficients, MultistepConfig, read_coefficients
from adacache.policies.static import StaticScheduleConfig
from adacache.validation import check_choice, check_keys, is_finite, is_list

FORMAT = 2
READABLE = (1, 2)  # calibrations of format 1 reuse residuals: they have bridges, and no coefficients

LEAST_COMPUTED = 2  # steps of a run


@dataclass(frozen=True)
class Point:
    """One schedule of the calibrated number of steps.

    `psnr` is the mean PSNR in dB of held-out videos against what the calibration aims at, `psnr_lowest` that of the
    worst one, `psnr_error` the standard error of the mean; all three are None if the schedule was not sampled.
    `coefficients` are those of a `MultistepConfig`; without them, residuals are reused by `bridge`, or else by the
    calibration's.
    """

    computed_steps: tuple[int, ...]
    psnr: float | None = None
    psnr_error: float | None = None
    psnr_lowest: float | None = None
    bridge: BridgeConfig | None = None
    coefficients: tuple[Coefficients, ...] | None = None

    @classmethod
    def from_dict(cls, data: Any) -> "Point":
        """Read a point as `Calibration.to_dict` wrote it.

        Raises:
            ValueError: `data` is something else.
        """
        if not isinstance(data, Mapping) or "computed_steps" not in data:
            raise ValueError(f"a point must have computed_steps, got {data!r}")
        check_keys("entry of a point", data, [field.name for field in fields(cls)])
        qualities = [data.get(name) for name in ("psnr", "psnr_error", "psnr_lowest")]
        if qualities != [None] * 3 and not all(map(is_finite, qualities)):
            raise ValueError(f"psnr, psnr_error and psnr_lowest must be three finite numbers or null, got {qualities}")
        bridge = None if data.get("bridge") is None else BridgeConfig.from_value(data["bridge"])
        steps = StaticScheduleConfig(data["computed_steps"]).computed_steps
        coefficients = data.get("coefficients")
        if coefficients is not None:
            coefficients = read_coefficients(coefficients, len(steps))
        return cls(steps, *qualities, bridge, coefficients)


@dataclass(frozen=True)
class Calibration:
    """Schedules for one model, sampler, video size and guidance scale.

    Attributes:
        conditions: what the schedules hold for, by name, as plain values.
        timesteps: the scheduler's times of all steps, descending from noise.
        aim: what videos should come close to, "repeat" or "solution", as in a `CalibrationPlan`.
        bridge: how reused steps get their residual, unless a point says otherwise.
        points: one per number of computed steps, ascending.
        reused_cost: time of a reused step over that of a computed one.
        details: how the calibration was made, for readers.
    """

    conditions: Mapping[str, Any]
    timesteps: tuple[float, ...]
    points: tuple[Point, ...]
    reused_cost: float
    details: Mapping[str, Any]
    aim: Aim = "repeat"
    bridge: BridgeConfig = BridgeConfig()

    @property
    def num_steps(self) -> int:
        """Sampling steps of the calibrated runs."""
        return len(self.timesteps)

    @property
    def measured(self) -> list[Point]:
        """The points that were sampled, by number of computed steps."""
        return [point for point in self.points if point.psnr is not None]

    def fits(self, timesteps: Sequence[float]) -> bool:
        """Whether a run with these `timesteps` takes the steps that were measured."""
        return len(timesteps) == self.num_steps and np.allclose(self.timesteps, timesteps)

    def counts(self, num_steps: int) -> range | list[int]:
        """Return the numbers of computed steps that a run of `num_steps` can have, ascending; the last reuses none."""
        combined = [len(point.computed_steps) for point in self.points if point.coefficients is not None]
        if not combined or num_steps != self.num_steps:
            return range(LEAST_COMPUTED, num_steps + 1)
        return [*range(LEAST_COMPUTED, combined[0]), *combined, num_steps]

    def psnr(self, num_computed: int) -> float:
        """Return the expected PSNR in dB, interpolated between measured points; beyond them, that of the nearest."""
        counts = [len(point.computed_steps) for point in self.measured]
        return float(np.interp(num_computed, counts, [point.psnr for point in self.measured]))

    def speedup(self, num_computed: int, num_steps: int) -> float:
        """Return how many times as fast denoising is as with every step computed."""
        return num_steps / (num_computed + (num_steps - num_computed) * self.reused_cost)

    def schedule(self, num_computed: int, timesteps: Sequence[float]) -> StaticScheduleConfig:
        """Return a schedule of `num_computed` steps for a run with these `timesteps`, descending from noise.

        If there are no coefficients for such a run, the calibrated schedule of as many steps (else of the nearest
        number, stretched) is read as times of the flow; each time goes to the nearest step that is still free, and the
        other steps reuse residuals.

        Raises:
            ValueError: the run has fewer than `num_computed` steps.
        """
        if not 1 <= num_computed <= len(timesteps):
            raise ValueError(f"cannot compute {num_computed} of {len(timesteps)} steps")
        nearest = min(self.points, key=lambda point: abs(len(point.computed_steps) - num_computed))
        steps = nearest.computed_steps
        fits = self.fits(timesteps)
        if fits and num_computed == self.num_steps:
            return StaticScheduleConfig(tuple(range(num_computed)), num_computed)
        if fits and nearest.coefficients is not None and len(steps) == num_computed:
            return MultistepConfig(steps, self.num_steps, coefficients=nearest.coefficients)
        if (len(steps), tuple(timesteps)) != (num_computed, self.timesteps):
            times = np.interp(
                np.linspace(0, 1, num_computed), np.linspace(0, 1, len(steps)), [self.timesteps[step] for step in steps]
            )
            steps = _nearest_steps(times, np.asarray(timesteps))
        fallback = self.bridge if nearest.coefficients is None else BridgeConfig("fitted", weight=0.5)
        return StaticScheduleConfig(steps, len(timesteps), bridge=nearest.bridge or fallback)

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as plain values; `from_dict` reads it back."""
        return {"format": FORMAT, **plain(self)}

    @classmethod
    def from_dict(cls, data: Any) -> "Calibration":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: `data` is something else.
        """
        if not isinstance(data, Mapping) or "format" not in data:
            raise ValueError("it is not a JSON object with a format")
        if data["format"] not in READABLE:
            raise ValueError(
                f"its format is {data['format']!r}, but this version reads {' and '.join(map(str, READABLE))}"
            )
        names = [field.name for field in fields(cls)]
        check_keys("entry", data, ["format", *names])
        optional = ("aim",) if data["format"] == 1 else ()
        missing = [name for name in names if name not in data and name not in optional]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        for name in ("timesteps", "points"):
            if not is_list(data[name]):
                raise ValueError(f"{name} must be a list, got {data[name]!r}")
        calibration = cls(
            conditions=data["conditions"],
            timesteps=tuple(data["timesteps"]),
            bridge=BridgeConfig.from_value(data["bridge"]),
            points=tuple(map(Point.from_dict, data["points"])),
            reused_cost=data["reused_cost"],
            details=data["details"],
            aim=data.get("aim", "repeat"),
        )
        calibration._check()
        return calibration

    def _check(self) -> None:
        """Refuse, with a ValueError, entries that are of the wrong kind or contradict each other."""
        check_choice("aim", self.aim, REFERENCES)
        for name in ("conditions", "details"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        if not self.timesteps or not all(map(is_finite, self.timesteps)):
            raise ValueError("timesteps must be finite numbers")
        if any(a < b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("timesteps must descend from noise")
        if not is_finite(self.reused_cost) or self.reused_cost < 0:
            raise ValueError(f"reused_cost must be a finite number >= 0, got {self.reused_cost!r}")
        if not self.measured:
            raise ValueError("it holds no measured schedule")
        for point in self.points:
            StaticScheduleConfig(point.computed_steps).validate(self.num_steps)
        counts = [len(point.computed_steps) for point in self.points]
        if counts != sorted(set(counts)):
            raise ValueError("its schedules must ascend in their number of computed steps")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as JSON; the file appears complete or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Calibration":
        """Read a calibration that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} holds no calibration ({error}); scripts/calibrate.py writes one") from error


def _nearest_steps(times: np.ndarray, timesteps: np.ndarray) -> tuple[int, ...]:
    """Return a step of its own for every time, as near as the others allow; the first time goes to step 0."""
    free = list(range(1, len(timesteps)))
    taken = [0]
    for time in times[1:]:
        step = min(free, key=lambda candidate: abs(timesteps[candidate] - time))
        free.remove(step)
        taken.append(step)
    return tuple(sorted(taken))
