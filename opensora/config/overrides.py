"""Command-line values over the entries of a config file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opensora.errors import ConfigError

# Flags that set an entry of a section; every other flag sets the top-level entry of its own name.
_TARGETS = {
    "num_sampling_steps": "scheduler.num_sampling_steps",
    "solver": "scheduler.solver",
    "cfg_scale": "scheduler.cfg_scale",
    "ckpt_path": "model.from_pretrained",
    "flash_attn": "model.enable_flash_attn",
    "layernorm_kernel": "model.enable_layernorm_kernel",
}

_STRENGTHS = ("speedup", "max_steps_computed", "min_psnr")
_SCHEDULES = (*_STRENGTHS, "replay")
_MODES = ("draft", "final")  # with a strength they may be given, too; without one they have their own

# Two ways to say the same thing: the one given on the command line retires the others that the file gives.
_ALTERNATIVES = {
    "image_size": ("resolution", "aspect_ratio"),
    "resolution": ("image_size",),
    "aspect_ratio": ("image_size",),
    "prompt": ("prompt_path",),
    "prompt_path": ("prompt",),
    **{way: tuple(other for other in _SCHEDULES if other != way) for way in _STRENGTHS},
    "replay": (*_STRENGTHS, *_MODES),
    "draft": ("final", "replay", "num_sample"),
    "final": ("draft", "replay", "num_sample"),
    "num_sample": ("draft", "final"),
}


def dotted_overrides(
    overrides: Mapping[str, Any] | None, cfg_options: Mapping[str, Any] | None, by_hand: str = "command line"
) -> dict[str, Any]:
    """All command-line values by dotted config key; flags win over ``--cfg-options``, None means not set.

    Args:
        by_hand: what errors begin with.

    Raises:
        ConfigError: two values that exclude each other, or a second place for the number of steps.
    """
    given = dict(cfg_options or {})
    for name, value in (overrides or {}).items():
        if value is not None:
            given[_TARGETS.get(name, name)] = value
    if given.get("watermark_text") is not None:
        given.setdefault("watermark", True)
    if "model.num_sampling_steps" in given:
        raise ConfigError(
            "command line: model.num_sampling_steps has no effect; set --num-sampling-steps "
            "(scheduler.num_sampling_steps), the one source of the number of steps"
        )
    for key, others in _ALTERNATIVES.items():
        for other in others:
            if key in given and other in given and None not in (given[key], given[other]):
                raise ConfigError(f"{by_hand}: {key} and {other} exclude each other; give one of them")
    return given


def without_alternatives(given: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` values of a run without those that the overrides of one prompt's ``line`` say in another way."""
    retired = {other for name in line for other in _ALTERNATIVES.get(name, ())}
    return {key: value for key, value in given.items() if key not in retired}


def merge_into_file(config: Any, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Entries of an ``mmengine.Config`` with the dotted ``given`` values merged in.

    Raises:
        ConfigError: a dotted key that leads through an entry which is not a section.
    """
    try:
        config.merge_from_dict(dict(given))
    except (TypeError, KeyError, AttributeError) as error:
        sections = " or ".join(sorted({key.split(".")[0] for key in given if "." in key}))
        raise ConfigError(f"command line: {path} has no dict '{sections}' to set an entry of") from error
    retired = retired_by(given)
    return {key: value for key, value in config.to_dict().items() if key not in retired}


def retired_by(given: Mapping[str, Any]) -> set[str]:
    """The entries of a config that no longer count, as ``given`` says the same thing in another way."""
    retired = {other for key, others in _ALTERNATIVES.items() if given.get(key) is not None for other in others}
    if any(given.get(mode) is not None for mode in _MODES):
        retired.update(name for name in _STRENGTHS if given.get(name) is None)
    return retired
