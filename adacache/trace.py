"""What happened at each step of a run: kept as plain values, written as JSON."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from pathlib import Path
from statistics import median
from typing import Any

from adacache.atomic import atomic_path
from adacache.validation import is_whole


@dataclass(frozen=True)
class StepRecord:
    """One sampling step.

    `index` is 0-based, `timestep` the scheduler's value. At a computed step, `value` is what was compared with the
    codebook's thresholds, `distance` the same before motion regularization (relative change per step, mean over the
    metric blocks), and `rate` the number of steps until the next computation. Policies that go by a signal document
    their own `distance` and `value`, and have them at reused steps, too. `milliseconds` run from this step's call of
    the model's blocks to the next step's (for the last step, to the end of the run); if the videos of a batch have
    their own schedules, those that computed a step share its time. `bridge_weight` is the share of the latest change
    that a fitted bridge adds to the steps that follow; `computed_share` is the share of branches that were computed,
    for policies that reuse single branches. None means not measured at this step. `joined` says that other frames took
    part than in the step before, or another model ran, so that nothing could be reused; in a trace of several videos,
    in any of them.
    """

    index: int
    timestep: float | None
    computed: bool
    distance: float | None = None
    value: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    rate: int | None = None
    milliseconds: float | None = None
    bridge_weight: float | None = None
    computed_share: float | None = None
    joined: bool = False


@dataclass
class Trace:
    """The steps of one run so far; `num_steps` is how many were planned. Step indices are 0-based."""

    num_steps: int
    records: list[StepRecord] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def computed_steps(self) -> list[int]:
        """Indices of the steps at which the blocks were computed."""
        return [record.index for record in self.records if record.computed]

    @property
    def reused_steps(self) -> list[int]:
        """Indices of the steps that reused a stored residual."""
        return [record.index for record in self.records if not record.computed]

    @property
    def num_computed(self) -> int:
        """Number of steps computed so far."""
        return len(self.computed_steps)

    @property
    def num_reused(self) -> int:
        """Number of steps reused so far."""
        return len(self.records) - self.num_computed

    @property
    def estimated_speedup(self) -> float | None:
        """Time this run would have taken with every step computed, over its actual time; None without times.

        A reused step is assumed to cost as much as the median computed step when computed. The median is used because
        the first step often warms up the device: a mean would promise more than caching gave. The result is also None
        if single branches were reused, since no step then shows what a whole one takes.
        """
        computed = [record.milliseconds for record in self.records if record.computed]
        reused = [record.milliseconds for record in self.records if not record.computed]
        in_parts = any(record.computed_share not in (None, 1) for record in self.records)
        if not computed or in_parts or None in computed or None in reused:
            return None
        actual = sum(computed) + sum(reused)
        return (sum(computed) + len(reused) * median(computed)) / actual if actual > 0 else None

    @property
    def estimated_saving(self) -> float | None:
        """The part of the time that caching saved: 1 - 1 / `estimated_speedup`; None without times."""
        speedup = self.estimated_speedup
        return None if speedup is None else 1 - 1 / speedup

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as plain values, with what can be derived from its records for readers of the file."""
        return {
            "num_steps": self.num_steps,
            "computed_steps": self.computed_steps,
            "estimated_speedup": self.estimated_speedup,
            "metadata": self.metadata,
            "records": [asdict(record) for record in self.records],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Trace":
        """Read what `to_dict` wrote; derived values are derived anew.

        Raises:
            ValueError: `data` is not a trace.
        """
        names = [field.name for field in fields(StepRecord)]
        if isinstance(data, Mapping) and "records" not in data:
            raise ValueError("it lists no steps, as after a run without a cache")
        try:
            # Older files have fewer of the fields that have defaults.
            records = [
                StepRecord(**{name: record[name] for name in names if name in record}) for record in data["records"]
            ]
            trace = cls(data["num_steps"], records, dict(data["metadata"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a trace: {error!r}") from error
        numbers = [value for record in records for value in vars(record).values() if value is not None]
        whole = [trace.num_steps, *(record.index for record in records)]
        if not all(map(is_whole, whole)) or not all(isinstance(number, Real) for number in numbers):
            raise ValueError("num_steps and index must be whole numbers, the other values of a step numbers or null")
        return trace

    def save(self, path: str | os.PathLike[str], **metadata: Any) -> None:
        """Write the trace as JSON, with `metadata` (plain values, e.g. prompt and seed) added to its own.

        The file appears complete or not at all. NaN and infinities become null, for JSON knows neither.
        """
        data = self.to_dict()
        data["metadata"] = {**self.metadata, **metadata}
        text = json.dumps(_without_nonfinite(data), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Read a trace that `save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} holds no trace ({error}); give a file that Trace.save wrote") from error


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nonfinite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(entry) for entry in value]
    return value
