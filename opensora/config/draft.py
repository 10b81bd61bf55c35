"""Drafts and finals: many seeds under a strong cache, then the chosen ones under a weak cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adacache.calibration.target import LEAST_COMPUTED, TARGETS
from adacache.options import ReuseOptions
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from opensora.config.reading import Source
from opensora.config.schema import SampleConfig
from opensora.config.target import apply_target, with_memory_options
from opensora.environment import command_line
from opensora.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

# Share of the steps that is computed, where a calibration says which. On the mini model (30 steps) 8 steps keep about
# 35 dB to the uncached video: what it shows, not its details. 20 steps keep about 59 dB, a loss nobody can see, so
# more would only cost time.
DRAFT_SHARE = 0.27
FINAL_SHARE = 0.67
# Without a calibration: the official codebooks for 30 steps.
DRAFT_CODEBOOK, FINAL_CODEBOOK = "fast30", "slow30"


def replaces_cache(entries: Mapping[str, Any]) -> bool:
    """Whether config ``entries`` ask for a target, a draft or a final, each of which replaces the config's cache."""
    return any(entries.get(name) is not None for name in (*TARGETS, "draft", "final"))


def apply_mode(config: SampleConfig, source: Source, depth: int | None) -> SampleConfig:
    """``config`` with the cache that its target, or else its draft or final, asks for; unchanged without any of them.

    A draft measures while it reuses, for its risk score. Without a target, a run too short to leave out a step has no
    cache.

    Args:
        depth: number of spatial-temporal block pairs of the model, if known.

    Raises:
        ConfigError: entries that exclude each other, seeds that cannot be read, or what ``apply_target`` raises.
    """
    mode = _mode(config, source)
    if mode is None:
        return apply_target(config, source)
    chosen, has_target = config, any(getattr(config, name) is not None for name in TARGETS)
    if not has_target:
        if config.calibration is None:
            return replace(config, cache=_validated(_official(config, mode, depth), config, depth, source))
        share, steps = (DRAFT_SHARE if mode == "draft" else FINAL_SHARE), config.scheduler.num_model_calls
        if steps <= LEAST_COMPUTED:
            return replace(config, cache=None)
        chosen = replace(config, max_steps_computed=min(steps, max(LEAST_COMPUTED, round(share * steps))))
    try:
        chosen = apply_target(chosen, source)
    except ConfigError as error:
        if has_target:
            raise
        raise ConfigError(f"{error} (with calibration=None, --{mode} uses an official codebook)") from error
    if mode == "draft" and isinstance(chosen.cache, StaticScheduleConfig):
        cache = replace(chosen.cache, **_measured(config.cache, depth))
        return replace(chosen, cache=_validated(cache, config, depth, source))
    return chosen


def seed_texts(value: Any) -> Any:
    """The entry ``final`` as a list of texts, where whole numbers and a single seed are allowed, too."""
    entries = [value] if isinstance(value, int | str) else value
    if not isinstance(entries, list | tuple):
        return value
    return [str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in entries]


def parse_seed(text: str) -> tuple[int | None, int]:
    """(prompt index, seed) of "2:1027", or (None, seed) of "1027", which every prompt shall have.

    Raises:
        ValueError: anything else.
    """
    index, colon, seed = text.rpartition(":")
    if not (seed.isascii() and seed.isdigit()) or (colon and not (index.isascii() and index.isdigit())):
        raise ValueError(f"final takes seeds such as 1024, or 2:1024 for prompt 2 only, got '{text}'")
    return (int(index) if colon else None), int(seed)


def _mode(config: SampleConfig, source: Source) -> str | None:
    """ "draft", "final" or None.

    Raises:
        ConfigError: two modes, a mode and a replay, or seeds that cannot be read.
    """
    given = [name for name in ("draft", "final", "replay") if getattr(config, name) is not None]
    if len(given) > 1:
        raise source.error(tuple(given), f"{given[0]} and {given[1]} exclude each other; give one of them")
    if config.final is not None:
        try:
            seeds = [parse_seed(text) for text in config.final]
        except ValueError as error:
            raise source.error("final", str(error)) from error
        if not seeds:
            raise source.error("final", "final names no seed; give at least one")
    return given[0] if given and given[0] != "replay" else None


def _measured(cache: Any, depth: int | None) -> dict[str, Any]:
    """What a draft measures: what the config's own cache does, else temporal attention in the model's middle block."""
    if getattr(cache, "metric", None) is not None:
        return {"metric": cache.metric, "metric_blocks": cache.metric_blocks}
    return {"metric": "t-attn"} | ({} if depth is None else {"metric_blocks": (depth // 2,)})


def _official(config: SampleConfig, mode: str, depth: int | None) -> ReuseOptions:
    """An official codebook, for a model without a calibration."""
    codebook = DRAFT_CODEBOOK if mode == "draft" else FINAL_CODEBOOK
    logger.info(
        "%s: there is no calibration, so the official codebook %s decides; '%s %s' makes one "
        "for this model, with which the same time gives better videos",
        mode,
        codebook,
        command_line("calibrate"),
        config.path,
    )
    return with_memory_options(AdaCacheConfig(codebook, **_measured(config.cache, depth)), config.cache)


def _validated(cache: PolicyConfig, config: SampleConfig, depth: int | None, source: Source) -> PolicyConfig:
    """``cache``, whose metric comes from the config's own cache, which was not compared with the model."""
    try:
        cache.validate(config.scheduler.num_model_calls, depth)
    except ValueError as error:
        raise source.error("cache", f"cache: {one_line(error)}") from error
    return cache
