"""Schedules from a calibration of a diffusers model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adacache.calibration.calibration import Calibration
from adacache.calibration.target import Target
from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.runs import RunStart
from adacache.policies.static import StaticScheduleConfig

# Names of the conditions of a calibration, as a user would say them.
_NAMES = {"transformers": "the transformers", "num_blocks": "numbers of blocks", "latents": "latents of shape"}


def model_conditions(cached: Sequence[CachedForward]) -> dict[str, Any]:
    """What a calibration holds for as far as the transformers tell; weights are not compared."""
    return {
        "transformers": [type(forward.transformer).__name__ for forward in cached],
        "num_blocks": [forward.num_blocks for forward in cached],
    }


def run_conditions(start: RunStart) -> dict[str, Any]:
    """What it holds for as far as a run's first call tells."""
    return {"latents": list(start.latents)}


@dataclass(frozen=True)
class CalibratedTarget:
    """A wish, and what turns it into a schedule."""

    calibration: Calibration
    target: Target

    @classmethod
    def of(cls, calibration: Calibration | str | os.PathLike[str] | None, target: Target | None) -> CalibratedTarget:
        """`calibration` itself or from a file.

        Raises: TypeError when one of the two is missing; OSError when the file cannot be read; ValueError when it holds
        something else.
        """
        if calibration is None:
            raise TypeError(
                f"{target.kind} needs a calibration of this model: make one by calibrate_pipeline, and give it or its "
                "file as calibration="
            )
        if target is None:
            raise TypeError("a calibration needs a target: speedup=, max_steps_computed= or min_psnr=")
        return cls(calibration if isinstance(calibration, Calibration) else Calibration.load(calibration), target)

    def check_model(self, cached: Sequence[CachedForward]) -> None:
        """Raises: ValueError when the calibration was made for other transformers."""
        self._check(model_conditions(cached))

    def config_of_run(self, start: RunStart) -> StaticScheduleConfig:
        """The schedule that meets the target in a run.

        Raises: ValueError when none does, or the calibration was made for videos of another size.
        """
        self._check(run_conditions(start))
        return self.target.resolve(self.calibration, start.timesteps)

    def _check(self, conditions: Mapping[str, Any]) -> None:
        for key, value in conditions.items():
            made_for = self.calibration.conditions.get(key)
            if made_for != value:
                raise ValueError(
                    f"the calibration was made for {_NAMES[key]} {made_for}, not {value}; make another one"
                )
