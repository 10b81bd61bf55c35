"""Repeated samples of one figure: median, spread, and ratios pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Self


@dataclass(frozen=True)
class Samples:
    """A figure that was measured more than once, one value per turn.

    Attributes:
        values: in turn order, without warm-up.
        unit: "s" or "ms" of times, "" of ratios.
        yardstick: what it took in the same turns, in ms; of ratios, the ratio of the yardsticks of the two times; empty
            where there is nothing to correct.

    Raises:
        ValueError: there are no values, or not as many of the yardstick, or some are not positive and finite.
    """

    values: tuple[float, ...]
    unit: str = ""
    yardstick: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("values", "yardstick"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.values:
            raise ValueError("a figure needs at least one sample")
        if not all(0 < value < math.inf for value in (*self.values, *self.yardstick)):
            raise ValueError("samples must be positive and finite")
        if self.yardstick and len(self.yardstick) != len(self.values):
            raise ValueError(f"{len(self.yardstick)} samples of the yardstick belong to {len(self.values)} others")

    @property
    def median(self) -> float:
        """The middle value, which a few disturbed turns do not move."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the values lie below the first and above the second: the interquartile range."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def is_time(self) -> bool:
        """Whether these are times, for which less is faster."""
        return bool(self.unit)

    def over(self, other: Samples) -> Samples:
        """The ratios to `other`, turn by turn: what disturbed a turn as a whole cancels."""
        yardstick = () if self.yardstick == other.yardstick else _ratios(self.yardstick, other.yardstick)
        return Samples(_ratios(self.values, other.values), "", yardstick)

    def in_milliseconds(self) -> Samples:
        """Times in seconds as milliseconds."""
        return Samples(tuple(1000 * value for value in self.values), "ms", self.yardstick)

    def in_yardsticks(self) -> tuple[float, ...]:
        """The values over the yardstick's of the same turn; without a yardstick as they are."""
        return _ratios(self.values, self.yardstick) if self.yardstick else self.values

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with median and quartiles for readers of the file."""
        return {
            "median": self.median,
            "quartiles": self.quartiles,
            "unit": self.unit,
            "samples": self.values,
            "yardstick": self.yardstick,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; median and quartiles are derived anew.

        Raises:
            KeyError, TypeError, ValueError: `data` is something else.
        """
        return cls(data["samples"], str(data["unit"]), data["yardstick"])


def _ratios(numerators: tuple[float, ...], denominators: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(numerators, denominators, strict=True))
