"""Every n-th step is computed: the plain control that any cleverer policy has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adacache.policies.static import PlannedConfig
from adacache.validation import check_count


@dataclass(frozen=True)
class FixedIntervalConfig(PlannedConfig):
    """The first `warmup` steps are computed, and from the last of them on every `interval`-th; 1 computes all.

    No other step is forced, not even the last one, which most methods compute: this control is also there to show what
    a forced step is worth.

    Raises:
        ValueError: an option is wrong; the message names it.
    """

    label: ClassVar[str] = "fixed interval"

    interval: int = 2
    warmup: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("interval", self.interval)
        check_count("warmup", self.warmup)

    def planned_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps that a run of `num_steps` computes, 0-based."""
        return (*range(min(self.warmup, num_steps)), *range(self.warmup - 1 + self.interval, num_steps, self.interval))
