"""The cache part of a config: our ``cache`` dict, or the official AdaCache options inside ``model``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from opensora.config.reading import Source
from opensora.config.schema import OFFICIAL_CACHE_KEYS
from opensora.utils.errors import one_line

if TYPE_CHECKING:
    from adacache.config import AdaCacheConfig
    from adacache.policies.hybrid import HybridConfig
    from adacache.policies.static import StaticScheduleConfig

logger = logging.getLogger(__name__)


def split_model_entries(model: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's own entries, and the official cache options found among them."""
    official = {key: value for key, value in model.items() if key in OFFICIAL_CACHE_KEYS}
    own = {key: value for key, value in model.items() if key not in OFFICIAL_CACHE_KEYS}
    return own, official


def read_cache(
    official: Mapping[str, Any], cache: Any, num_steps: int | None, depth: int | None, source: Source
) -> AdaCacheConfig | StaticScheduleConfig | HybridConfig | None:
    """The cache configuration of a run, or None when every step is computed.

    Args:
        official: official options from ``model``; ``do_cache`` switches them on.
        cache: the top-level ``cache`` entry in our own keys; with ``computed_steps`` it is a static schedule,
            and with any option that only a hybrid one has, that.
        num_steps: the scheduler's number of steps, which MoReg's range must fit; None where something else will decide
            when steps are computed, so that this configuration has to fit no run.
        depth: number of spatial-temporal block pairs of the model, if known.

    Raises:
        ConfigError: both styles at once, or whatever the cache configuration finds wrong.
    """
    if official and cache is not None:
        raise source.error(
            "cache",
            f"'cache' and model.{sorted(official)[0]} both configure the cache; keep one of the two styles",
        )
    if not official and cache is None:
        return None
    if not official and not isinstance(cache, Mapping):
        raise source.error("cache", f"cache must be a dict or None, got {cache!r}")
    # The official code caches only when asked to: its do_cache is False when left out.
    section, entries = ("model", {"do_cache": False, **official}) if official else ("cache", cache)

    try:
        config = _policy_of(entries).from_dict(entries)
        if config is not None and num_steps is not None:
            config.validate(num_steps, depth)
    except (ValueError, TypeError) as error:
        raise source.error(section, f"{section}: {one_line(error)}") from error
    if config is None and num_steps is not None:
        logger.info("model.do_cache is off: every step is computed, the other cache options have no effect")
    return config


def _policy_of(entries: Mapping[str, Any]) -> type[AdaCacheConfig | StaticScheduleConfig | HybridConfig]:
    """The class whose options these are."""
    from adacache.config import AdaCacheConfig
    from adacache.policies.hybrid import HybridConfig
    from adacache.policies.static import StaticScheduleConfig

    if "computed_steps" not in entries:
        return AdaCacheConfig
    hybrid, static = ({field.name for field in fields(cls)} for cls in (HybridConfig, StaticScheduleConfig))
    return HybridConfig if (hybrid - static).intersection(entries) else StaticScheduleConfig


def read_replay(path: Any, num_steps: int, source: Source) -> StaticScheduleConfig:
    """The schedule of the recorded run in the JSON file ``path``.

    Raises:
        ConfigError: the file cannot be read, holds no complete trace, or one of another number of steps.
    """
    from adacache.policies.static import StaticScheduleConfig

    if not isinstance(path, str) or not path:
        raise source.error("replay", f"replay must be the path of a trace (.json), got {path!r}")
    try:
        config = StaticScheduleConfig.from_trace(path)
        config.validate(num_steps)
    except OSError as error:
        raise source.error("replay", f"replay: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise source.error("replay", f"replay: {one_line(error)}") from error
    return config
