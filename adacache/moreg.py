"""Motion regularization's options."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from adacache.validation import check_keys, check_positive, check_weight, step_window, whole_numbers


@dataclass(frozen=True)
class MoRegConfig:
    """Motion regularization: videos whose frames differ more are computed more often.

    The motion score is (m / `scale`) ** `power` / `divisor`, where m in [0, 1] is the relative difference of
    frames that lie `strides` apart (mean over the strides). A larger `scale` or `divisor` reuses more;
    `power` sharpens the contrast. `gradient_weight` weighs how fast the score changes between computed steps;
    0 turns that off. Only steps inside `window` are regularized: two ints are 1-based step numbers, two
    floats in [0, 1] are fractions of the number of steps; both ends are included.

    Raises: ValueError for values outside these ranges.
    Source: arXiv:2411.02397, Motion Regularization; defaults from the official code, whose window is (10, 90)
    of 100 steps.
    """

    scale: float = 0.385
    power: float = 8.0
    divisor: float = 1.0
    gradient_weight: float = 10.0
    strides: tuple[int, ...] = (1,)
    window: tuple[int, int] | tuple[float, float] = (0.1, 0.9)

    def __post_init__(self) -> None:
        for name in ("scale", "power", "divisor"):
            check_positive(f"moreg {name}", getattr(self, name))
        check_weight("moreg gradient_weight", self.gradient_weight)
        object.__setattr__(self, "strides", whole_numbers("moreg strides", self.strides, minimum=1))
        object.__setattr__(self, "window", step_window("moreg window", self.window))

    @classmethod
    def from_value(cls, value: Any) -> "MoRegConfig | None":
        """Read what a config may hold: the options as a mapping, True for the defaults, False or None.

        Raises: ValueError for anything else and for unknown options.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"moreg must be None, True, False or a mapping of its options, got {value!r}")
        check_keys("moreg option", value, [field.name for field in fields(cls)])
        return cls(**value)

    def resolve_window(self, num_steps: int) -> tuple[int, int]:
        """The first and the last regularized step of a run, 1-based and both included.

        Fractions always fit: they are rounded and hold at least one step.

        Raises: ValueError when a window of step numbers does not lie within 1..num_steps.
        """
        first, last = self.window
        if isinstance(first, float):
            first = max(1, round(first * num_steps))
            return first, max(first, round(last * num_steps))
        if last > num_steps:
            raise ValueError(
                f"moreg window ({first}, {last}) reaches beyond the {num_steps} sampling steps; "
                f"give steps within 1..{num_steps}, or fractions of the run such as (0.1, 0.9)"
            )
        return first, last
