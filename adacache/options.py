"""Options that every policy has: they say how reuse works, not when."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from adacache.bridge import BridgeConfig
from adacache.validation import check_choice, check_count, check_keys

SCHEDULES = ("sample", "batch")
CACHE_DEVICES = ("model", "cpu")
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class ReuseOptions:
    """How steps are reused, whatever policy decides when; the configs of all policies begin with these.

    `bridge` takes every form that `BridgeConfig.from_value` knows. `schedule` "sample" lets each video of a batch
    decide for itself, as it would alone; "batch" measures all together and decides for all, as the official code does.

    `cache_device` says where residuals are kept between steps: "model" on the model's own device, "cpu" in pinned CPU
    memory where that device is a CUDA one (elsewhere nothing is moved). `cache_dtype` is the precision in which a
    reused step's residuals are kept, None for that of the hidden states; what decisions are measured with always keeps
    its own. "bf16" is as wide in range as "fp32"; "fp16" saturates at 65504, which residuals of large models can pass.

    Raises: ValueError in one sentence that names the option.
    """

    label: ClassVar[str] = "cache"  # of the policy, as messages call its options

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

        Raises: ValueError for an unknown key or a wrong value.
        """
        check_keys(f"{cls.label} option", options, [field.name for field in fields(cls)])
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values; `from_dict` reads it back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain | self.reuse_dict()

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Raises: ValueError when the options do not fit a run of `num_steps` or a model of `num_blocks`."""
        check_count("num_steps", num_steps)

    def reuse_dict(self) -> dict[str, Any]:
        """These options as plain values."""
        return {
            "bridge": self.bridge.to_dict(),
            "schedule": self.schedule,
            "cache_device": self.cache_device,
            "cache_dtype": self.cache_dtype,
        }
