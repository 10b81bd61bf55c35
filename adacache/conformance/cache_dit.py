"""cache-dit's DBCache, as its documentation configures it: `--cache adacache.conformance.cache_dit:CACHE`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import cache_dit
from torch import nn

from adacache.conformance.cache import Adds, Cache, NotApplicable, Setting


def _apply(pipe: Any, setting: Setting, num_steps: int) -> tuple[Any, int]:
    if not cache_dit.BlockAdapterRegister.is_supported(pipe):
        raise NotApplicable(f"cache-dit does not name {type(pipe).__name__} among those that it supports")
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1,
        max_warmup_steps=2,
        max_continuous_cached_steps=2,
        residual_diff_threshold={"every": 0.0, "some": 1e9}.get(setting, setting),
        # cache-dit sets it itself for pipelines that always make two calls; HunyuanVideo makes two with true guidance.
        enable_separate_cfg=True if type(pipe).__name__.startswith("HunyuanVideo") else None,
    )
    cache_dit.enable_cache(pipe, cache_config=config)
    return pipe, num_steps


def _remove(pipe: Any, handle: Any) -> None:
    cache_dit.disable_cache(pipe)


def _adds(pipe: Any) -> Adds:
    """Return "tail", or None with several lists of blocks (one tail each) and for Wan VACE (hints in the blocks)."""
    blocks = cache_dit.BlockAdapterRegister.get_adapter(pipe).blocks
    several = isinstance(blocks, list) and any(isinstance(entry, nn.ModuleList) for entry in blocks)
    return None if several or "VACE" in type(pipe).__name__ else "tail"


def _computed_steps(pipe: Any, num_steps: int) -> list[int]:
    """Return the steps that cache-dit does not list as cached."""
    if getattr(pipe, "transformer_2", None) is not None:
        raise NotApplicable("it counts the steps of each transformer by themselves")
    stats = cache_dit.summary(pipe, logging=False)[0]
    return [step for step in range(num_steps) if step not in stats.cached_steps]


CACHE = Cache(
    "cache-dit",
    f"cache-dit {version('cache-dit')}",
    _apply,
    _remove,
    adapts=True,
    adds=_adds,
    computed_steps=lambda handle: _computed_steps(*handle),
    not_promised={"alone": "it decides for the whole batch, by a mean over it"},
)
