"""The file of one run of the benchmark: figures with their samples, machine and settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from adacache.atomic import atomic_path
from bench.timing.samples import Samples
from opensora.errors import ConfigError

FORMAT = "opensora-adacache benchmark 1"


@dataclass
class Record:
    """One run.

    Attributes:
        machine: as `describe_machine` gives it.
        settings: what the figures depend on beside the commit: turns, captions and the like.
        figures: by part; nested dicts of `Samples` and of plain values, which are exact (bytes, counts).
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """All figures by a name such as "mini / one step / computed_ms"."""
        return _flatten(self.figures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; the file appears complete or not at all.

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
