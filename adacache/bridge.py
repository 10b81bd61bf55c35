"""The options of a bridge: how a reused step gets its residual from those of the computed steps before it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from adacache.validation import check_choice, check_keys, check_positive, check_weight, is_whole

KINDS = ("hold", "linear", "fitted", "taylor")
HIGHEST_ORDER = 4


@dataclass(frozen=True)
class BridgeConfig:
    """What a reused step adds: the last residual, or what the last ones let expect.

    With r1 the residual of the last computed step, r0 that of the one before, and `ratio` = (steps since the last) /
    (steps between the two), the reused residual is r1 + weight * min(ratio, max_ratio) * (r1 - r0).

    - "hold": weight 0, as in the paper.
    - "linear": the given `weight`; it loses where residuals turn between computed steps.
    - "fitted": at every computed step the weight is measured anew, for every video: the least-squares share of the
      previous extrapolation that came true, between 0 and 1. Residuals that turned get weight 0, which is "hold".
      `weight` serves as long as fewer than three steps were computed.
    - "taylor": instead of the above, the Taylor series of the given `order` about the last computed step, with divided
      differences of the last order + 1 residuals as derivatives. Order 0 is "hold", order 1 is "linear" with weight 1
      and nothing to limit the ratio; `weight` and `max_ratio` have no part in it.

    "hold" keeps one residual, "taylor" order + 1, the others two.

    Raises: ValueError for values outside of these.
    """

    kind: Literal["hold", "linear", "fitted", "taylor"] = "hold"
    weight: float = 0.3
    max_ratio: float = 1.0
    order: int = 1

    def __post_init__(self) -> None:
        check_choice("bridge kind", self.kind, KINDS)
        check_weight("bridge weight", self.weight)
        if self.weight > 1:
            raise ValueError(f"bridge weight must lie between 0 and 1, got {self.weight!r}")
        check_positive("bridge max_ratio", self.max_ratio)
        if not is_whole(self.order) or not 0 <= self.order <= HIGHEST_ORDER:
            raise ValueError(f"bridge order must be a whole number from 0 to {HIGHEST_ORDER}, got {self.order!r}")

    @classmethod
    def from_value(cls, value: Any) -> "BridgeConfig":
        """Read what a config may hold: the name of a kind, or the options as a mapping.

        Raises: ValueError for anything else and for unknown options.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"bridge must be one of {', '.join(KINDS)}, or a mapping of its options, got {value!r}")
        check_keys("bridge option", value, [field.name for field in fields(cls)])
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values; `from_value` reads them back."""
        return asdict(self)

    @property
    def num_residuals(self) -> int:
        """How many residuals of each guidance context it keeps."""
        return {"hold": 1, "taylor": self.order + 1}.get(self.kind, 2)
