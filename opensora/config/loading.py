"""Config files: plain Python read once, checked at once, turned into a ``SampleConfig``."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opensora.config.cache import read_cache, read_replay, split_model_entries
from opensora.config.draft import apply_mode, replaces_cache, seed_texts
from opensora.config.file import find_config, read_config_file
from opensora.config.kinds import check_entries, check_pieces, kind_of, model_depth
from opensora.config.low_memory import with_low_memory
from opensora.config.model_calls import check_diffusion_options, num_model_calls
from opensora.config.overrides import dotted_overrides, merge_into_file, without_alternatives
from opensora.config.reading import Source, check_names, read_fields, read_section
from opensora.config.schema import NO_EFFECT, OFFICIAL_CACHE_KEYS, LatteModelConfig, ModelConfig, SampleConfig
from opensora.config.sections import SECTIONS
from opensora.config.size_limits import check_size_limits
from opensora.config.target import with_memory_options
from opensora.config.video import (
    SIZE_KEYS,
    default_save_fps,
    frames_per_chunk,
    latent_frames,
    latents_per_chunk,
    resolve_num_frames,
    resolve_size,
)
from opensora.errors import ConfigError

__all__ = ["ConfigError", "SampleConfig", "config_from_dict", "load_config"]

logger = logging.getLogger(__name__)

_MAX_STEPS = 10_000
_MAX_CRF = 51  # of H.264 with 8 bits
_NONE_MEANS = {"loop": 1, "num_sample": 1, "llm_refine": False, "watermark": False}
_DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}


def load_config(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    line: Mapping[str, Any] | None = None,
    line_name: str = "prompt",
) -> SampleConfig:
    """Read a config file (ours, Open-Sora's, or the official AdaCache's) and validate it.

    Args:
        path: ``.py`` (with ``_base_`` inheritance), ``.yaml`` or ``.json``; looked up from the working
            directory, then from the repository's root.
        overrides: values of upstream's flags by name (``num_sampling_steps``, ``resolution``, ...); a flag that
            is None is not set.
        cfg_options: values by dotted config key (``scheduler.cfg_scale``).
        line: what one prompt asks for by the names of flags; it wins over all of the above.
        line_name: what errors about those values begin with.

    Raises:
        ConfigError: the file is missing or unreadable, or an entry is unknown, of the wrong type or out of range.
    """
    file = find_config(path)
    config = read_config_file(file)
    given, by_hand = dotted_overrides(overrides, cfg_options), "command line"
    if line:
        of_line = dotted_overrides(line, None, line_name)
        given, by_hand = without_alternatives(given, of_line) | of_line, line_name
    entries = merge_into_file(config, given, str(file))
    return config_from_dict(entries, Source(str(file), frozenset(given), by_hand))


def config_from_entries(
    entries: Mapping[str, Any],
    path: str,
    overrides: Mapping[str, Any] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> SampleConfig:
    """As ``load_config``, of entries that did not come from a config file.

    Args:
        path: what errors call their origin.
    """
    from mmengine.config import Config

    given = dotted_overrides(overrides, cfg_options)
    return config_from_dict(merge_into_file(Config(dict(entries)), given, path), Source(path, frozenset(given)))


def config_from_dict(entries: Mapping[str, Any], source: Source | None = None) -> SampleConfig:
    """Validate the entries of a config, as ``load_config`` does after reading the file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type or out of range.
    """
    source = source or Source("config")
    entries = with_low_memory(_without_helper_variables(entries, source), source)
    known = {*SampleConfig.__dataclass_fields__, *NO_EFFECT[""], *SIZE_KEYS}
    check_names(entries, known - {"height", "width", "path"}, source)

    sections = {name: _section_entries(entries.pop(name, None), name, source) for name in SECTIONS}
    sections["model"], official_cache = split_model_entries(sections["model"])
    # The official options repeat the number of steps here; the scheduler's own entry rules.
    repeated_steps = sections["model"].pop("num_sampling_steps", None)
    if repeated_steps is not None:
        sections["scheduler"].setdefault("num_sampling_steps", repeated_steps)
    built = {name: read_section(name, _without_effectless(sections[name], name), source) for name in SECTIONS}
    check_pieces(built, source)
    check_diffusion_options(built["scheduler"], source)
    calls, cache_entry = num_model_calls(built["scheduler"]), entries.pop("cache", None)
    depth = _model_depth(built["model"], entries.get("weights_dir"))
    replay = entries.get("replay")
    replaced = replay is not None or replaces_cache(entries)
    cache = read_cache(official_cache, cache_entry, None if replaced else calls, depth, source)
    if replay is not None:
        cache = with_memory_options(read_replay(replay, calls, source), cache)

    height, width = resolve_size({key: entries.pop(key, None) for key in SIZE_KEYS}, source)
    entries |= {"height": height, "width": width}
    if source.from_command_line & set(SIZE_KEYS):
        source = dataclasses.replace(source, from_command_line=source.from_command_line | {"height", "width"})
    has_durations = kind_of(built["model"].type).has_durations
    entries["num_frames"] = resolve_num_frames(entries.get("num_frames"), source, has_durations)
    if entries.get("save_fps") is None:
        entries["save_fps"] = default_save_fps(entries)
    if isinstance(entries.get("dtype"), str):
        entries["dtype"] = _DTYPE_NAMES.get(entries["dtype"], entries["dtype"])
    if isinstance(entries.get("prompt"), str):
        entries["prompt"] = [entries["prompt"]]
    for name in ("reference_path", "mask_strategy"):
        entries[name] = _as_texts(entries.get(name))
    # Upstream's files leave these open by None.
    entries |= {name: default for name, default in _NONE_MEANS.items() if name in entries and entries[name] is None}
    entries["final"] = seed_texts(entries.get("final"))
    result = read_fields(SampleConfig, _without_effectless(entries, ""), source, path=source.path, cache=cache, **built)
    check_entries(result, source)
    _check_together(result, source)
    check_size_limits(result, source)
    return apply_mode(result, source, depth)


def _without_helper_variables(entries: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """``entries`` without the variables that the official files set first and then pass into ``model``."""
    model = entries.get("model")
    passed_on = OFFICIAL_CACHE_KEYS | {"num_sampling_steps"}

    def is_helper(key: str) -> bool:
        return key in passed_on and isinstance(model, Mapping) and key in model and key not in source.from_command_line

    return {key: value for key, value in entries.items() if not is_helper(key)}


def _section_entries(section: Any, name: str, source: Source) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        problem = "is missing" if section is None else f"must be a dict, got {section!r}"
        raise source.error(name, f"the section '{name}' {problem}; write {name} = dict(...)")
    return dict(section)


def _without_effectless(entries: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Drop the upstream keys that have no meaning here; say so for the kernels a user may have asked for."""
    if entries.get("enable_flash_attn") or entries.get("enable_layernorm_kernel"):
        logger.info("attention and layer norms use PyTorch's own kernels; enable_* options have no effect")
    return {key: value for key, value in entries.items() if key not in NO_EFFECT[section]}


def _as_texts(entry: Any) -> Any:
    """A single text as a list of one; upstream's empty ones as None."""
    if entry in ("", [], [""], (), ("",)):
        return None
    return [entry] if isinstance(entry, str) else entry


def _model_depth(model: ModelConfig | LatteModelConfig, weights_dir: Any) -> int | None:
    return model_depth(model.from_pretrained, model.type, weights_dir if isinstance(weights_dir, str) else None)


def _check_together(config: SampleConfig, source: Source) -> None:
    """What no single entry can be blamed for."""
    if getattr(config.scheduler, "use_timestep_transform", False) and config.multi_resolution is None:
        raise source.error(
            "multi_resolution",
            "scheduler.use_timestep_transform needs the size of the video; set multi_resolution='STDiT2'",
        )
    if config.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", config.device):
        raise source.error("device", f"device must be 'cpu', 'cuda' or 'cuda:N', got '{config.device}'")
    if config.end_index is not None and config.end_index <= config.start_index:
        raise source.error(
            "end_index",
            f"end_index ({config.end_index}) must be above start_index ({config.start_index})",
        )
    if config.scheduler.num_sampling_steps > _MAX_STEPS:
        raise source.error(
            ("num_sampling_steps", "scheduler.num_sampling_steps"),
            f"scheduler.num_sampling_steps must be at most {_MAX_STEPS}, got {config.scheduler.num_sampling_steps}",
        )
    if config.condition_frame_edit > 1:
        raise source.error("condition_frame_edit", f"condition_frame_edit is {config.condition_frame_edit}, above 1")
    if config.watermark and not config.watermark_text.strip():
        raise source.error(
            ("watermark", "watermark_text"), "watermark_text is empty; give it a word, or leave the watermark out"
        )
    if config.crf > _MAX_CRF:
        raise source.error("crf", f"crf must be at most {_MAX_CRF}, got {config.crf}")
    if config.llm_refine and not (config.llm_endpoint and config.llm_model):
        missing = "llm_model" if config.llm_endpoint else "llm_endpoint"
        raise source.error(
            ("llm_refine", missing),
            f"llm_refine needs {missing}; set llm_endpoint='http://HOST:PORT/v1' and llm_model to what it serves",
        )
    _check_continuation(config, source)
    if config.sample_name is not None and (
        config.sample_name == ".." or Path(config.sample_name).name != config.sample_name
    ):
        raise source.error(
            "sample_name",
            f"sample_name must be a file name, got '{config.sample_name}'; folders go to save_dir",
        )


def _check_continuation(config: SampleConfig, source: Source) -> None:
    """A clip that goes on has to end with a whole chunk of the autoencoder, and must not consist of it alone."""
    if config.loop == 1:
        return
    chunk, latents = frames_per_chunk(config), latents_per_chunk(config)
    if config.num_frames % chunk or config.num_frames < 2:
        raise source.error(
            ("loop", "num_frames"),
            f"loop={config.loop} needs clips of whole chunks of {chunk} frames, got num_frames={config.num_frames}",
        )
    if config.condition_frame_length % latents:
        raise source.error(
            "condition_frame_length",
            f"condition_frame_length is {config.condition_frame_length}; a loop takes over whole chunks, multiples of "
            f"{latents} latent frames",
        )
    if config.align is not None and config.align % latents:
        raise source.error(
            "align", f"align is {config.align}; with loops it has to be a multiple of a chunk's {latents} latent frames"
        )
    if config.condition_frame_length >= latent_frames(config.num_frames, config):
        raise source.error(
            ("condition_frame_length", "num_frames", "loop"),
            f"condition_frame_length={config.condition_frame_length} leaves nothing to generate in clips of "
            f"{config.num_frames} frames ({latent_frames(config.num_frames, config)} latent ones); set a larger "
            "num_frames",
        )
