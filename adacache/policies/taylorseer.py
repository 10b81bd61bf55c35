"""TaylorSeer: few steps are computed at a fixed interval, and those in between are forecast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from adacache.options import BridgeConfig
from adacache.policies.static import PlannedConfig
from adacache.validation import check_count


@dataclass(frozen=True)
class TaylorSeerConfig(PlannedConfig):
    """The first `warmup` steps are computed, after them one is reused, and then every `interval`-th is computed.

    An interval of 1 computes all. With the defaults steps 0, 1, 2, 4, 9, 14, ... are computed (0-based): a step is
    computed if step < warmup or (step - warmup - 1) % interval == 0, the rule of the source. The others get a Taylor
    series of the given `order` (0 to 4), which is the bridge "taylor" of `BridgeConfig` and keeps order + 1 residuals.
    `bridge` is always that one.

    Raises:
        ValueError: an option is wrong; the message names it.

    Source: arXiv:2503.06923, TaylorSeer, and its implementation in diffusers (`cache_interval`,
    `disable_cache_before_step`, `max_order`). That one forecasts the output of every attention, or in its lite mode
    that of the last projection. This one forecasts the residual of all blocks, as for every policy that reuses steps,
    which takes about as little memory as the lite mode. Derivatives are bfloat16 there, while residuals here are kept
    in `cache_dtype`.
    """

    label: ClassVar[str] = "TaylorSeer"

    interval: int = 5
    warmup: int = 3
    order: int = 1
    bridge: BridgeConfig = field(default=None, kw_only=True)  # filled in

    def __post_init__(self) -> None:
        check_count("interval", self.interval)
        check_count("warmup", self.warmup)
        own = BridgeConfig("taylor", order=self.order)
        if self.bridge is not None and BridgeConfig.from_value(self.bridge) != own:
            raise ValueError(
                f"bridge {self.bridge!r} cannot be used with TaylorSeer, which has its own, a Taylor series of order "
                f"{self.order}; leave bridge out and set order"
            )
        object.__setattr__(self, "bridge", own)
        super().__post_init__()

    def planned_steps(self, num_steps: int) -> tuple[int, ...]:
        """The steps that a run of `num_steps` computes, 0-based."""
        return tuple(
            step for step in range(num_steps) if step < self.warmup or (step - self.warmup - 1) % self.interval == 0
        )
