"""MagCache: residuals are reused as long as their magnitude, measured once for all videos, hardly changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adacache.policies.static import PlannedConfig
from adacache.validation import check_count, check_positive, is_finite, is_list


@dataclass(frozen=True)
class MagCacheConfig(PlannedConfig):
    """A schedule that follows from how the magnitude of a model's residuals changes over the steps.

    `ratios` has one number for every step but the first: the magnitude of that step's residual over that of the step
    before, mean over tokens and over videos sampled without reuse. They belong to a model and a number of steps; a run
    with another number of steps takes the nearest ratios, by fraction of the run.

    The first `retention` of the steps (a fraction, rounded, one step at least) are computed. At each later step, the
    product of the ratios since the last computed step, this step's included, estimates what is left of the magnitude,
    and |1 - product| is the error of reusing the residual unchanged. The step is reused if the sum of these errors
    since the last computed step is at most `threshold` and no more than `max_skips` steps in a row are reused.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2506.09045, MagCache, and its implementation in diffusers, which this one follows. The authors' code
    for Open-Sora differs from their paper: it takes the square root of the ratios and adds up 1 - product with its
    sign, so that growing residuals hide the error of shrinking ones. Its threshold is the default here.
    """

    label: ClassVar[str] = "MagCache"

    ratios: tuple[float, ...]
    threshold: float = 0.12
    max_skips: int = 3
    retention: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_list(self.ratios) or not self.ratios or not all(is_finite(r) and r > 0 for r in self.ratios):
            raise ValueError(
                "ratios must be a list of finite numbers above 0, one for every step but the first, "
                f"got {self.ratios!r}"
            )
        object.__setattr__(self, "ratios", tuple(float(ratio) for ratio in self.ratios))
        check_positive("threshold", self.threshold)
        check_count("max_skips", self.max_skips)
        if not is_finite(self.retention) or not 0 <= self.retention <= 1:
            raise ValueError(f"retention must be a fraction of the run between 0 and 1, got {self.retention!r}")

    def doubt(self, num_steps: int) -> str | None:
        """Return what to warn of if the ratios are those of another number of steps."""
        if len(self.ratios) == num_steps - 1:
            return None
        if len(self.ratios) == num_steps and self.ratios[0] == 1:
            return (
                "The ratios begin with a 1 for the first step, as diffusers' mag_ratios do, and are taken for those of "
                f"{num_steps + 1} sampling steps: leave the 1 out, as ratios here begin with the second step."
            )
        return (
            f"The ratios were measured with {len(self.ratios) + 1} sampling steps, but this run has {num_steps}: the "
            "nearest ones are used, but magnitudes change by a different amount per step, so expect a different speed "
            "and fidelity."
        )

    def planned_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps that a run of `num_steps` computes, 0-based."""
        retained = max(1, int(self.retention * num_steps + 0.5))
        computed = list(range(min(retained, num_steps)))
        product, error, skips = 1.0, 0.0, 0
        for step in range(retained, num_steps):
            product *= self._ratio(step, num_steps)
            error += abs(1 - product)
            skips += 1
            if error > self.threshold or skips > self.max_skips:
                computed.append(step)
                product, error, skips = 1.0, 0.0, 0
        return tuple(computed)

    def _ratio(self, step: int, num_steps: int) -> float:
        """Return the ratio of a step after the first, the nearest one if the run has another number of steps."""
        return self.ratios[max(0, round(step * len(self.ratios) / (num_steps - 1)) - 1)]
