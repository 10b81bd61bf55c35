"""What a cache is, to be put through the properties, and this library's own caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adacache.integrations.diffusers import AdaCacheHandle, apply_adacache
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.seacache import SeaCacheConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.policies.taylorseer import TaylorSeerConfig

Setting = Literal["every", "some"] | float
Adds = Literal["stack", "tail"] | None


class NotApplicable(Exception):
    """What is asked for makes no sense for this cache or this pipeline; the message says why."""


@dataclass(frozen=True)
class Cache:
    """A cache for pipelines of diffusers, as the properties see it.

    Attributes:
        name: In tables.
        version: Of the package that it comes from.
        apply: `(pipe, setting, num_steps)` puts it on a pipeline whose runs have so many steps, and returns a handle of
            any kind. The setting "some" reuses what it can, whatever the video shows; "every" computes every step; a
            number, where `adapts`, is a threshold, and the larger it is, the more is reused. Raises `NotApplicable`
            where the cache is not made for the pipeline.
        remove: `(pipe, handle)` takes it off.
        computes_every: Whether it knows the setting "every".
        adapts: Whether it goes by what the video shows, and knows a threshold.
        turning_point: `(handle)`, the threshold above which the last run, which reused nothing, would have reused a
            call; None where it does not tell, and is tried out.
        adds: What a reused call adds by its own claim: "stack", to the input of the first block what all blocks added
            when they were last computed; "tail", to the output of the first block what the others added; None for
            something else. Or `(pipe)`, where that depends on the pipeline.
        computed_steps: `(handle)`, 0-based, of the last run; None where it does not tell.
        not_promised: Names of properties that it does not claim to have, with the reason.
    """

    name: str
    version: str
    apply: Callable[[Any, Setting, int], Any]
    remove: Callable[[Any, Any], object]
    computes_every: bool = True
    adapts: bool = False
    turning_point: Callable[[Any], float] | None = None
    adds: Adds | Callable[[Any], Adds] = None
    computed_steps: Callable[[Any], list[int]] | None = None
    not_promised: Mapping[str, str] = field(default_factory=dict)


def _ours(name: str, make_config: Callable[[Setting, int], Any], **options: Any) -> Cache:
    def apply(pipe: Any, setting: Setting, num_steps: int) -> AdaCacheHandle:
        return apply_adacache(pipe, make_config(setting, num_steps))

    def remove(pipe: Any, handle: AdaCacheHandle) -> None:
        handle.remove()

    return Cache(
        name, "this library", apply, remove, computed_steps=lambda handle: handle.trace.computed_steps, **options
    )


def _codebook(setting: Setting, num_steps: int) -> AdaCacheConfig:
    if setting == "every":
        return AdaCacheConfig(codebook={"thresholds": [], "rates": [1]}, metric_blocks=(1,))
    threshold = 1e9 if setting == "some" else setting
    return AdaCacheConfig(codebook={"thresholds": [threshold], "rates": [3, 1]}, metric_blocks=(1,))


def _first_distance(handle: AdaCacheHandle) -> float:
    return next(record.distance for record in handle.trace.records if record.distance is not None)


def _static(setting: Setting, num_steps: int) -> StaticScheduleConfig:
    return StaticScheduleConfig(tuple(range(num_steps)) if setting == "every" else (0, 1, 3, num_steps - 1))


def _easycache(setting: Setting, num_steps: int) -> EasyCacheConfig:
    return EasyCacheConfig({"every": 1e-30, "some": 1e9}.get(setting, setting), warmup=2)


def _seacache(setting: Setting, num_steps: int) -> SeaCacheConfig:
    return SeaCacheConfig({"every": 1e-30, "some": 1e9}.get(setting, setting))


def _taylorseer(setting: Setting, num_steps: int) -> TaylorSeerConfig:
    return TaylorSeerConfig(interval=1 if setting == "every" else 3, warmup=2)


OURS = (
    _ours("adacache-codebook", _codebook, adapts=True, turning_point=_first_distance, adds="stack"),
    _ours("adacache-static", _static, adds="stack"),
    _ours("adacache-easycache", _easycache, adapts=True),
    _ours("adacache-seacache", _seacache, adapts=True),
    _ours("adacache-taylorseer", _taylorseer),
)
