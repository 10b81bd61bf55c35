"""How to describe a cache so that its properties can be checked, and this library's own caches."""

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
    """Raised if a check or setting makes no sense for this cache or pipeline; the message says why."""


@dataclass(frozen=True)
class Cache:
    """A cache for pipelines of diffusers, as the properties see it.

    Attributes:
        name: name of the cache in tables.
        version: name and version of the package that it comes from.
        apply: (pipe, setting, num_steps) -> a handle of any kind; applies the cache to a pipeline whose runs have
            `num_steps` steps. The setting "some" reuses as much as it can, whatever the video shows; "every" computes
            every step; a number is a threshold, for caches with `adapts`: the larger it is, the more is reused. Raises
            `NotApplicable` if the cache is not made for the pipeline.
        remove: (pipe, handle) -> anything; removes the cache.
        computes_every: whether the cache has the setting "every".
        adapts: whether the cache decides by what the video shows, and takes a threshold.
        turning_point: (handle) -> the threshold above which the last run, which reused nothing, would have reused a
            call. None if the cache does not report it; it is then found by trial.
        adds: what a reused call adds, as the cache claims: "stack" adds to the input of the first block what all blocks
            added when they were last computed; "tail" adds to the output of the first block what the others added;
            None is anything else. Or a function, (pipe) -> one of these, if it depends on the pipeline.
        computed_steps: (handle) -> 0-based indices of the last run's computed steps; None if the cache does not report
            them.
        not_promised: names of properties that the cache does not claim to have, with the reason.
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
