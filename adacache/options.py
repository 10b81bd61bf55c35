"""Options that every policy has: they say how reuse works, not when."""

from dataclasses import dataclass
from typing import Any, Literal

from adacache.bridge import BridgeConfig
from adacache.validation import check_choice

SCHEDULES = ("sample", "batch")


@dataclass(frozen=True, kw_only=True)
class ReuseOptions:
    """How steps are reused, whatever policy decides when; the configs of all policies begin with these.

    `bridge` takes every form that `BridgeConfig.from_value` knows. `schedule` "sample" lets each video of a batch
    decide for itself, as it would alone; "batch" measures all together and decides for all, as the official code does.

    Raises: ValueError in one sentence that names the option.
    """

    bridge: BridgeConfig = BridgeConfig()
    schedule: Literal["sample", "batch"] = "sample"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bridge", BridgeConfig.from_value(self.bridge))
        check_choice("schedule", self.schedule, SCHEDULES)

    def reuse_dict(self) -> dict[str, Any]:
        """These options as plain values."""
        return {"bridge": self.bridge.to_dict(), "schedule": self.schedule}
