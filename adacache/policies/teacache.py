"""TeaCache: the change of the first block's input, scaled by a polynomial, adds up until a step has to be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from adacache.policies.base import PolicyConfig
from adacache.policies.summed import SummedChangePolicy
from adacache.validation import check_choice, check_positive, is_finite, is_list

MAX_COEFFICIENTS = 8

# Source: the TeaCache repository, one set per model, highest power first. Those of CogVideoX were fitted to the change
# of the time embedding, not to that of the modulated input.
PUBLISHED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "open-sora": (217.546007, -118.329252, 26.8662585, -0.0459364272, 0.0484426240),
        "latte": (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402),
        "open-sora-plan-v1.1": (205943.668, -14875.9286, 306.085986, 1.31418080, 0.00239658469),
        "cogvideox-2b": (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434),
        "cogvideox-5b": (-1538.80483, 843.202495, -134.363087, 7.97131516, -0.0523162339),
        "ltx-video": (21.4700694, -12.8016453, 2.31279151, 0.792487521, 0.00969274326),
        "mochi": (-3512.41319, 811.675948, -60.9400215, 2.42429681, 0.00305291719),
        "hunyuan-video": (733.226126, -401.131952, 67.5869174, -3.14987800, 0.0961237896),
    }
)


@dataclass(frozen=True)
class TeaCacheConfig(PolicyConfig):
    """The change of the model's output is estimated at every step, from the first block's input.

    x is the relative change of that block's normalized input, modulated with the timestep's shift and scale, since the
    step before: mean|current - before| / mean|before|. A polynomial p turns it into the expected change of the output.
    p(x) is added up since the last computed step, this step's included; a step is reused while the sum is below
    `threshold`. The first and the last step are always computed. The published thresholds are 0.1 ("slow") and 0.2
    ("fast").

    `coefficients` are those of p, 1 to 8 numbers with the highest power first, or the name of a model of `PUBLISHED`.
    They belong to a model; another one needs its own, fitted to runs without reuse.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2411.19108, TeaCache, and the authors' code. Two things differ. p(x) below 0 counts as 0 here: beyond
    the range it was fitted on, p can turn negative (Latte's above x = 0.237, Mochi's above 0.144), and as published a
    *large* change then lowers the sum and postpones the next computation. Counting it as no change is still wrong: a
    polynomial says nothing beyond its range. And the authors' code measures all videos of a batch together; here this
    is done only with schedule="batch".
    """

    label: ClassVar[str] = "TeaCache"

    coefficients: tuple[float, ...]
    threshold: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "coefficients", _read_coefficients(self.coefficients))
        check_positive("threshold", self.threshold)

    def make_policy(self, num_steps: int) -> TeaCachePolicy:
        """A policy for one run; a ValueError unless `num_steps` is a whole number >= 1."""
        self.validate(num_steps)
        return TeaCachePolicy(self.coefficients, self.threshold, num_steps)


class TeaCachePolicy(SummedChangePolicy):
    """The policy of a `TeaCacheConfig`; its `distance` is x."""

    signal: ClassVar[str] = "modulated_input"

    def __init__(self, coefficients: Sequence[float], threshold: float, num_steps: int) -> None:
        super().__init__(threshold, num_steps)
        self._coefficients = tuple(coefficients)

    def expected_change(self, distance: float) -> float:
        """Return max(p(x), 0), or infinity if x is not finite: nothing may be reused then."""
        if not math.isfinite(distance):
            return math.inf
        total = 0.0
        for coefficient in self._coefficients:
            total = total * distance + coefficient
        return max(total, 0.0)


def _read_coefficients(value: Any) -> tuple[float, ...]:
    """Return the coefficients of a named model, or 1 to 8 finite numbers; a ValueError for anything else."""
    if isinstance(value, str):
        check_choice("coefficients", value, PUBLISHED)
        return PUBLISHED[value]
    if not is_list(value) or not 1 <= len(value) <= MAX_COEFFICIENTS or not all(map(is_finite, value)):
        raise ValueError(
            f"coefficients must be a list of 1 to {MAX_COEFFICIENTS} finite numbers, highest power first, "
            f"or the name of a model ({', '.join(PUBLISHED)}), got {value!r}"
        )
    return tuple(float(coefficient) for coefficient in value)
