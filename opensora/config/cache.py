"""The cache part of a config: our `cache` dict of any policy, or the official AdaCache options inside `model`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from adacache.calibration.target import TARGETS
from adacache.policies.base import PolicyConfig
from adacache.policies.registry import config_from_dict
from adacache.policies.static import StaticScheduleConfig
from opensora.config.reading import Source
from opensora.config.target import MODES, find_calibration, replaces_cache, with_memory_options
from opensora.errors import one_line
from opensora.files import find_path

logger = logging.getLogger(__name__)


def read_cache(
    entries: dict[str, Any], official: Mapping[str, Any], num_steps: int, depth: int | None, source: Source
) -> PolicyConfig | None:
    """Take the cache out of config `entries` and return its configuration, or None if every step is computed.

    A replay replaces when steps are computed; a target, a draft or a final will, too. The configuration then says no
    more than where and how residuals are kept.

    Args:
        official: official options from `model`; `do_cache` switches them on.
        num_steps: the scheduler's number of steps (calls of the model).
        depth: number of spatial-temporal block pairs of the model, if known.

    Raises:
        ConfigError: both styles are used at once, the cache configuration refuses its options or does not fit the run,
            or the recorded run cannot be replayed.
    """
    if "cache" in source.from_command_line and entries.get("cache") is None:
        official = {}  # "no cache" by hand, whichever style the file has
    cache, replay = entries.pop("cache", None), entries.get("replay")
    is_replaced = replay is not None or replaces_cache(entries)
    if is_replaced:
        _check_has_effect(entries, source)
    config = _own_cache(official, cache, None if is_replaced else num_steps, depth, source)
    return config if replay is None else with_memory_options(_read_replay(replay, num_steps, source), config)


def _check_has_effect(entries: Mapping[str, Any], source: Source) -> None:
    """Refuse options of the cache that are given by hand where something else decides which steps are computed."""
    decides = next(name for name in ("replay", *TARGETS, "draft", "final") if entries.get(name) is not None)
    kept = ("cache_device", "cache_dtype", "schedule", *(("metric", "metric_blocks") if decides in MODES else ()))
    for key in sorted(source.from_command_line):
        section, _, name = key.partition(".")
        if section == "cache" and name and name not in kept:
            raise source.error(key, f"{key} has no effect with {decides}; leave one of them out ({decides}=None)")


def _own_cache(
    official: Mapping[str, Any], cache: Any, num_steps: int | None, depth: int | None, source: Source
) -> PolicyConfig | None:
    """Return the cache that the config itself describes.

    Args:
        cache: the top-level `cache` entry, in our own keys: options of the policy that it names, else of the one that
            they fit (`adacache.policies.registry`). A static schedule may be in a `file` instead.
        num_steps: what MoReg's range must fit; None if something else decides when steps are computed.
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
        config = _read_policy(entries, source)
        if config is not None and num_steps is not None:
            config.validate(num_steps, depth)
            if doubt := config.doubt(num_steps):
                logger.warning("%s", doubt)
    except (ValueError, TypeError) as error:
        raise source.error(section, f"{section}: {one_line(error)}") from error
    if config is None and num_steps is not None:
        logger.info("model.do_cache is off: every step is computed, the other cache options have no effect")
    return config


def _read_policy(entries: Mapping[str, Any], source: Source) -> PolicyConfig | None:
    """Return the config that the entries describe, with the schedule of their file if they name one.

    Raises:
        ValueError, TypeError: the entries or the file cannot be used.
    """
    if entries.get("policy", "static") != "static" or "file" not in entries:
        return config_from_dict(entries)
    if "computed_steps" in entries:
        raise ValueError("file and computed_steps cannot be combined; give only one of them")
    file = entries["file"]
    if not isinstance(file, str) or not file:
        raise ValueError(f"file must be the path of a schedule (.json), got {file!r}")
    path = find_calibration(file, source.path)
    if path is None:
        raise ValueError(f"there is no file {file}")
    try:
        options = {key: value for key, value in entries.items() if key not in ("policy", "file")}
        return StaticScheduleConfig.from_file(path, **options)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def _read_replay(path: Any, num_steps: int, source: Source) -> StaticScheduleConfig:
    """Return the schedule of the recorded run in the JSON file `path`.

    Raises:
        ConfigError: the file cannot be read, holds no complete trace, or its run has another number of steps.
    """
    if not isinstance(path, str) or not path:
        raise source.error("replay", f"replay must be the path of a trace (.json), got {path!r}")
    path = find_path(path) or path
    try:
        config = StaticScheduleConfig.from_trace(path)
        config.validate(num_steps)
    except OSError as error:
        raise source.error("replay", f"replay: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise source.error("replay", f"replay: {one_line(error)}") from error
    return config
