"""The codebook: from the distance between two residuals to the number of steps for which the newer one is reused."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from adacache.options import plain
from adacache.validation import check_count, check_keys, choices, is_finite, is_list, whole_numbers


@dataclass(frozen=True)
class Codebook:
    """Distance -> rate, the number of steps until the next computation (larger is faster and less faithful).

    `thresholds` ascend, in units of relative change per step. `rates` has one entry more: the last one is for distances
    at or above the last threshold. No threshold and one rate make a fixed interval. `num_sampling_steps` says what the
    codebook was tuned for; it is informative only and ignored in comparisons.

    Raises:
        ValueError: the values are not such a table.

    Source: arXiv:2411.02397, Adaptive Caching (caching schedule); the values of the official code are in `PRESETS`.
    """

    thresholds: tuple[float, ...]
    rates: tuple[int, ...]
    num_sampling_steps: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not is_list(self.thresholds) or not all(is_finite(t) and t > 0 for t in self.thresholds):
            raise ValueError(f"codebook thresholds must be a list of finite numbers above 0, got {self.thresholds!r}")
        object.__setattr__(self, "thresholds", tuple(float(t) for t in self.thresholds))
        object.__setattr__(self, "rates", whole_numbers("codebook rates", self.rates, minimum=1))
        _check_ascending(self.thresholds)
        if len(self.rates) != len(self.thresholds) + 1:
            raise ValueError(
                f"codebook has {len(self.thresholds)} thresholds and {len(self.rates)} rates; give one more rate than "
                "thresholds, the last one for all larger distances"
            )
        if self.num_sampling_steps is not None:
            check_count("codebook num_sampling_steps", self.num_sampling_steps)

    def rate(self, distance: float) -> int:
        """Return the rate of the first threshold that `distance` is strictly below, or else (also for NaN) the last."""
        # NaN is not below any threshold, so bisection walks it to the end like any large distance.
        return self.rates[bisect_right(self.thresholds, distance)]

    @classmethod
    def from_value(cls, value: Any) -> "Codebook":
        """Build a codebook from any of the forms a config file may hold.

        These are: a `Codebook`; the name of a preset; `dict(thresholds=[...], rates=[...])`; the official
        mapping `{threshold: rate}`; the same as a list of `[threshold, rate]` pairs. In the last two the last
        threshold is decorative, as it is in the official code: its rate holds for all larger distances.

        Raises:
            ValueError: `value` is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in PRESETS:
                raise ValueError(f"unknown codebook preset '{value}'{choices(value, PRESETS)}")
            return PRESETS[value]
        if isinstance(value, Mapping):
            own_keys = ("thresholds", "rates", "num_sampling_steps")
            if not any(key in own_keys for key in value):
                return cls._from_pairs(list(value.items()))
            check_keys("codebook key", value, own_keys)
            if "thresholds" not in value or "rates" not in value:
                raise ValueError(f"codebook needs both thresholds and rates, got only {', '.join(value)}")
            return cls(**value)
        if is_list(value) and all(is_list(pair) and len(pair) == 2 for pair in value):
            return cls._from_pairs(value)
        raise ValueError(
            f"codebook must be the name of a preset ({', '.join(PRESETS)}), a mapping or list of thresholds "
            f"with their rates, or dict(thresholds=..., rates=...), got {value!r}"
        )

    @classmethod
    def _from_pairs(cls, pairs: Sequence[Sequence[Any]]) -> "Codebook":
        if not pairs:
            raise ValueError("codebook is empty; give at least one threshold with its rate")
        thresholds = [_number(threshold) for threshold, _ in pairs]
        # The decorative one must ascend too: a table out of order is not what its author thinks it is.
        _check_ascending(thresholds)
        return cls(thresholds=thresholds[:-1], rates=[rate for _, rate in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Return the codebook as plain lists and numbers; `from_value` reads it back."""
        return plain(self)


def _check_ascending(thresholds: Sequence[float]) -> None:
    if not all(low < high for low, high in zip(thresholds, thresholds[1:], strict=False)):
        raise ValueError(
            f"codebook thresholds must ascend strictly, got {list(thresholds)}; sort them together with their rates"
        )


def _number(threshold: Any) -> float:
    """Return a threshold as a float; JSON turns the keys of a mapping into strings."""
    try:
        if isinstance(threshold, str | Real) and not isinstance(threshold, bool):
            return float(threshold)
    except ValueError:
        pass  # a string that holds no number
    raise ValueError(f"codebook threshold {threshold!r} is not a number; give a relative change such as 0.08")


# Source: the official code's configs for Open-Sora v1.2, for 100 steps and ("fast", "slow") for 30 steps.
PRESETS: dict[str, Codebook] = {
    "steps100": Codebook((0.03, 0.05, 0.07, 0.09, 0.11), (12, 10, 8, 6, 4, 3), num_sampling_steps=100),
    "fast30": Codebook((0.08, 0.16, 0.24, 0.32, 0.40), (6, 5, 4, 3, 2, 1), num_sampling_steps=30),
    "slow30": Codebook((0.08, 0.16, 0.24, 0.32, 0.40), (3, 2, 1, 1, 1, 1), num_sampling_steps=30),
}
