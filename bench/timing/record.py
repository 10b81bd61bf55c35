"""One run of the benchmark and its file: figures with their samples, machine and settings."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Self

from adacache.atomic import atomic_path
from opensora.errors import ConfigError

FORMAT = "opensora-adacache benchmark 1"


@dataclass
class Record:
    """One run.

    Attributes:
        machine: from `describe_machine`.
        settings: what the figures depend on besides the commit: turns, captions and so on.
        figures: by part; nested dicts of `Samples` and of plain values, which are exact (bytes, counts).
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return all figures by a name such as "mini / one step / computed_ms"."""
        return _flatten(self.figures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; the file appears complete or not at all.

        Raises:
            ConfigError: the file cannot be written.
        """
        data = {"format": FORMAT, "machine": self.machine, "settings": self.settings, "figures": _plain(self.figures)}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}); choose another one with --save") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no such file, or it holds something else.
        """
        advice = "give a file that scripts/benchmark.py --save wrote"
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); {advice}") from error
        except ValueError as error:
            raise ConfigError(f"{path} is not a benchmark file; {advice}") from error
        found = data.get("format") if isinstance(data, Mapping) else None
        if found != FORMAT:
            other = f" of the format '{FORMAT}', but of '{found}'" if found else ""
            raise ConfigError(f"{path} is not a benchmark file{other}; {advice}")
        try:
            return cls(dict(data["machine"]), dict(data["settings"]), _with_samples(dict(data["figures"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is a damaged benchmark file ({error!r}); {advice}") from error


def _flatten(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name} / "))
        else:
            flat[prefix + name] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Samples):
        return value.to_dict()
    return {name: _plain(entry) for name, entry in value.items()} if isinstance(value, Mapping) else value


def _with_samples(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "samples" in value:
        return Samples.from_dict(value)
    return {name: _with_samples(entry) for name, entry in value.items()}


@dataclass(frozen=True)
class Samples:
    """A figure that was measured more than once, one value per turn.

    Attributes:
        values: in turn order, without warm-up.
        unit: "s" or "ms" of times, "" of ratios.
        yardstick: times of the yardstick in the same turns, in ms; for ratios, the ratios of both times' yardsticks;
            empty if there is nothing to correct.

    Raises:
        ValueError: there are no values, their number is not that of the yardstick's, or one is not positive and finite.
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
        """The median, which a few disturbed turns do not move."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The ends of the interquartile range."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def is_time(self) -> bool:
        """Whether these are times, for which less is faster."""
        return bool(self.unit)

    def over(self, other: Samples) -> Samples:
        """Return the ratios to `other`, turn by turn, in which whatever disturbed a whole turn cancels."""
        yardstick = () if self.yardstick == other.yardstick else _ratios(self.yardstick, other.yardstick)
        return Samples(_ratios(self.values, other.values), "", yardstick)

    def in_milliseconds(self) -> Samples:
        """Return times in seconds as milliseconds."""
        return Samples(tuple(1000 * value for value in self.values), "ms", self.yardstick)

    def in_yardsticks(self) -> tuple[float, ...]:
        """Return the values divided by the yardstick's of the same turn; without a yardstick, as they are."""
        return _ratios(self.values, self.yardstick) if self.yardstick else self.values

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with median and quartiles for readers of the file."""
        return {
            "median": self.median,
            "quartiles": self.quartiles,
            "unit": self.unit,
            "samples": self.values,
            "yardstick": self.yardstick,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; median and quartiles are computed again.

        Raises:
            KeyError, TypeError, ValueError: `data` is something else.
        """
        return cls(data["samples"], str(data["unit"]), data["yardstick"])


def _ratios(numerators: tuple[float, ...], denominators: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(numerators, denominators, strict=True))
