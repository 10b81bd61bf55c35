"""How a reused step follows the last residuals, and configs as plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, Literal

from adacache.validation import check_choice, check_keys, check_positive, check_weight, is_whole

# The options that each kind of bridge uses.
_USED = {
    "hold": (),
    "linear": ("weight", "max_ratio"),
    "fitted": ("weight", "max_ratio"),
    "exponential": ("weight",),
    "taylor": ("order",),
}
KINDS = tuple(_USED)
HIGHEST_ORDER = 4
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class BridgeConfig:
    """What a reused step adds: the last residual, or an extrapolation of the last ones.

    With r1 the residual of the last computed step, r0 that of the one before, and `ratio` = (steps since the last) /
    (steps between the two), the reused residual is r1 + weight * min(ratio, max_ratio) * (r1 - r0).

    - "hold": weight 0, as in the paper.
    - "linear": the given `weight`; it does worse where residuals turn between computed steps.
    - "fitted": the weight is measured anew at every computed step, for every video: the least-squares share, between 0
      and 1, of the previous extrapolation that came true. Residuals that turned get weight 0, which is "hold". `weight`
      applies until three steps are computed.
    - "exponential": changes are assumed to shrink from gap to gap by a factor, which is measured like the weight of
      "fitted"; the ratio has no limit. weight * ratio is replaced by factor + factor^2 + ... up to the power `ratio`,
      which for ratios between whole numbers is factor * (1 - factor^ratio) / (1 - factor).
    - "taylor": instead of the above, the Taylor series of the given `order` about the last computed step, with
      differences of the last order + 1 residuals, divided by the steps between them, as derivatives. Order 0 is "hold";
      order 1 is "linear" with weight 1 and no limit to the ratio. `weight` and `max_ratio` are not used.

    "hold" keeps one residual, "taylor" order + 1, the others two.

    Raises:
        ValueError: a value is outside of these, or set where the kind does not use it.
    """

    kind: Literal["hold", "linear", "fitted", "exponential", "taylor"] = "hold"
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
        for field in fields(self)[1:]:
            if field.name in _USED[self.kind] or getattr(self, field.name) == field.default:
                continue
            users = " or ".join(repr(kind) for kind in KINDS if field.name in _USED[kind])
            raise ValueError(f"bridge kind {self.kind!r} has no {field.name}; choose kind {users}, or leave it out")

    @classmethod
    def from_value(cls, value: Any) -> "BridgeConfig":
        """Read any form that a config may hold: the name of a kind, or a mapping of the options.

        Raises:
            ValueError: anything else, also an unknown option, or one that the kind does not use.
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
        """Return the options as plain values; `from_value` reads them back."""
        return asdict(self)

    @property
    def num_residuals(self) -> int:
        """How many residuals the bridge keeps for each guidance context."""
        return {"hold": 1, "taylor": self.order + 1}.get(self.kind, 2)


def plain(value: Any) -> Any:
    """Return a dataclass, or a value in one, as the mappings, lists, numbers and strings that JSON has."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value
