"""Options that every policy has: they say how reuse works, not when."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from adacache.validation import check_choice, check_count, check_keys, check_positive, check_weight, is_whole

if TYPE_CHECKING:
    from adacache.policies.base import Policy

KINDS = ("hold", "linear", "fitted", "exponential", "taylor")
HIGHEST_ORDER = 4
SCHEDULES = ("sample", "batch")
CACHE_DEVICES = ("model", "cpu")
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
        ValueError: a value is outside of these.
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

    @classmethod
    def from_value(cls, value: Any) -> "BridgeConfig":
        """Read any form that a config may hold: the name of a kind, or a mapping of the options.

        Raises:
            ValueError: anything else, also an unknown option.
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


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What to cache, and how: the configs of all policies are frozen dataclasses that extend this class.

    Their own options say when a step is reused; the options of this class say how, whatever the policy.

    `bridge` takes every form that `BridgeConfig.from_value` knows. With `schedule` "sample" each video of a batch
    decides for itself, as it would alone; "batch" measures all together and decides for all, as the official code does.

    `cache_device` says where residuals are kept between steps: "model" on the model's own device, "cpu" in pinned CPU
    memory if that device is a CUDA device (elsewhere nothing is moved). `cache_dtype` is the precision in which
    residuals are kept for reused steps, None for that of the hidden states; tensors kept for measuring always keep
    their own. "bf16" has the range of "fp32"; "fp16" saturates at 65504, which residuals of large models can exceed.

    Raises:
        ValueError: an option is wrong; the message names it.
    """

    label: ClassVar[str] = "cache"  # name of the policy in error messages about its options

    bridge: BridgeConfig = BridgeConfig()
    schedule: Literal["sample", "batch"] = "sample"
    cache_device: Literal["model", "cpu"] = "model"
    cache_dtype: Literal["fp32", "bf16", "fp16"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bridge", BridgeConfig.from_value(self.bridge))
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("cache_device", self.cache_device, CACHE_DEVICES)
        if self.cache_dtype is not None:
            check_choice("cache_dtype", self.cache_dtype, ELEMENT_BYTES)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Read a config section.

        Raises:
            ValueError: an unknown key or a wrong value.
        """
        check_keys(f"{cls.label} option", options, [field.name for field in fields(cls)])
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values; `from_dict` reads it back."""
        return plain(self)

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Refuse, with a ValueError, a run of `num_steps` or a model of `num_blocks` that the options do not fit."""
        check_count("num_steps", num_steps)

    def make_policy(self, num_steps: int) -> "Policy":
        """Return a fresh policy for one run; a ValueError if the options do not fit a run of `num_steps`."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """Return a dataclass, or a value in one, as the mappings, lists, numbers and strings that JSON has."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value
