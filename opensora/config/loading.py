"""Config files: plain Python that is read once, checked and turned into a `SampleConfig`."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from mmengine.config import Config

from adacache.calibration.target import TARGETS
from adacache.policies import official_options
from opensora.config.cache import read_cache
from opensora.config.entries import (
    default_save_dir,
    dotted_overrides,
    find_config,
    merge_into_file,
    read_config_file,
    without_alternatives,
)
from opensora.config.model_families import (
    check_diffusion_options,
    check_entries,
    check_pieces,
    check_size_limits,
    family_of,
    model_depth,
)
from opensora.config.reading import Source, check_names, read_fields, read_section, read_value
from opensora.config.schema import NO_EFFECT, OFFICIAL_CACHE_KEYS, SECTIONS, SampleConfig, section_class
from opensora.config.target import apply_mode, seed_texts
from opensora.config.trained_on import trained_on
from opensora.datasets.aspect import NUM_FRAMES_MAP, get_image_size, get_num_frames
from opensora.errors import one_line

logger = logging.getLogger(__name__)

CACHE_KEYS = ("cache", "replay", "draft", "final", *TARGETS)  # what decides which steps are computed
SIZE_KEYS = ("image_size", "resolution", "aspect_ratio")
_NONE_MEANS = {"loop": 1, "num_sample": 1, "llm_refine": False, "watermark": False}  # upstream's files leave them open
# Entries that do nothing without a switch. A file may hold them for runs that have it; given by hand, they are refused.
_SWITCHES = {"llm_endpoint": "llm_refine", "llm_model": "llm_refine", "vae.tile_size": "vae.tiling"}
_DTYPE_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
# Where entries belong that are looked for at the top level, where upstream's flags and the official code have them.
_ELSEWHERE = {
    **{key: f"model.{key}" for key in OFFICIAL_CACHE_KEYS},
    **{
        name: f"{section}.{name}"
        for section, classes in SECTIONS.items()
        for cls in classes
        for name in cls.__pydantic_fields__
        if name not in ("type", "from_pretrained")
    },
    **dict.fromkeys(("height", "width"), "image_size"),
}
# What low_memory sets besides the cache's device: section ("" for the top level) -> entries. The command line wins.
_LOW_MEMORY: dict[str, dict[str, Any]] = {
    "": {"batch_size": 1},
    "vae": {"tiling": True, "micro_batch_size": 1},
    "text_encoder": {"dtype": "bf16"},
}


def load_config(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> SampleConfig:
    """Read a config file (ours, Open-Sora's, or the official AdaCache's) and validate it.

    Args:
        path: `.py` (with `_base_` inheritance), `.yaml` or `.json`; looked up from the working
            directory, then from the repository's root.
        overrides: values of upstream's flags by name (`num_sampling_steps`, `resolution`, ...); a flag that
            is None is not set.
        cfg_options: values by dotted config key (`scheduler.cfg_scale`).

    Raises:
        ConfigError: the file is missing or unreadable, or an entry is unknown, of the wrong type or out of range.
    """
    file = find_config(path)
    return config_from_entries(read_config_file(file).to_dict(), str(file), overrides, cfg_options)


def load_without_cache(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> SampleConfig:
    """Do what `load_config` does, with every step computed, however the file or the options say which are."""
    options = {**besides_cache(cfg_options or {}), **dict.fromkeys(CACHE_KEYS)}
    return load_config(path, overrides, options)


def besides_cache(cfg_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, by dotted key, that leave open which steps are computed."""
    return {key: value for key, value in cfg_options.items() if key.split(".")[0] not in CACHE_KEYS}


def config_from_entries(
    entries: Mapping[str, Any],
    path: str,
    overrides: Mapping[str, Any] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    line: Mapping[str, Any] | None = None,
    line_name: str = "prompt",
) -> SampleConfig:
    """Do what `load_config` does, for entries that are already read; they are not changed.

    Args:
        path: where the entries come from, as errors begin.
        line: overrides of a single prompt, by the names of flags; they win over all of the above.
        line_name: where these overrides come from, as errors begin.
    """
    given, by_hand = dotted_overrides(overrides, cfg_options), "command line"
    entries = {"save_dir": default_save_dir(path, given), **entries}
    if line:
        of_line = dotted_overrides(line, None, line_name)
        given, by_hand = without_alternatives(given, of_line) | of_line, line_name
    merged = merge_into_file(Config(dict(entries)), given, path)
    return config_from_dict(merged, Source(path, frozenset(given), by_hand))


def config_from_dict(entries: Mapping[str, Any], source: Source | None = None) -> SampleConfig:
    """Validate the entries of a config, as `load_config` does after reading the file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type or out of range.
    """
    source = source or Source("config")
    if source.from_command_line & set(SIZE_KEYS):
        source = dataclasses.replace(source, from_command_line=source.from_command_line | {"height", "width"})
    entries = _with_low_memory(_without_helper_variables(entries, source), source)
    known = {*SampleConfig.__pydantic_fields__, *SIZE_KEYS}
    check_names(entries, known - {"height", "width", "path"}, source, elsewhere=_ELSEWHERE)
    official_cache, sections = _read_sections(entries, source)
    model = sections["model"]
    weights_dir = entries.get("weights_dir")
    depth = model_depth(model.from_pretrained, model.type, weights_dir if isinstance(weights_dir, str) else None)
    cache = read_cache(entries, official_cache, sections["scheduler"].num_model_calls, depth, source)
    values = _plain_values(entries, model, source)
    result = read_fields(SampleConfig, values, source, path=source.path, cache=cache, **sections)
    check_entries(result, source)
    for keys, message in (*_missing_switches(result, source), *_conflicts(result)):
        raise source.error(keys, message)
    check_size_limits(result, source)
    return _with_cache_in_cpu_memory(apply_mode(result, source, depth), source)


def _read_sections(entries: dict[str, Any], source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the sections out of `entries`; return the official cache options, and each section's dataclass by name.

    Keys of upstream that have no effect here are dropped, with a line about kernels that a user may have asked for.

    Raises:
        ConfigError: a section is missing, cannot be read, or does not go with the others.
    """
    sections = {}
    for name in SECTIONS:
        section = entries.pop(name, None)
        if not isinstance(section, Mapping):
            problem = "is missing" if section is None else f"must be a dict, got {section!r}"
            raise source.error(name, f"the section '{name}' {problem}; write {name} = dict(...)")
        sections[name] = dict(section)
    model = sections["model"]
    official_cache = {key: model.pop(key) for key in OFFICIAL_CACHE_KEYS & model.keys()}
    # The official options repeat the number of steps here; the scheduler's own entry wins.
    repeated_steps = model.pop("num_sampling_steps", None)
    if repeated_steps is not None:
        sections["scheduler"].setdefault("num_sampling_steps", repeated_steps)
    if model.get("enable_flash_attn") or model.get("enable_layernorm_kernel"):
        logger.info("attention and layer norms use PyTorch's own kernels; enable_* options have no effect")
    built = {}
    for name, section in sections.items():
        effective = {key: value for key, value in section.items() if key not in NO_EFFECT[name]}
        built[name] = read_section(name, effective, source)
    check_pieces(built, source)
    check_diffusion_options(built["scheduler"], source)
    return official_cache, built


def _plain_values(entries: Mapping[str, Any], model: Any, source: Source) -> dict[str, Any]:
    """Return `entries` with sizes, lengths and upstream's other spellings as the values that the schema takes.

    Raises:
        ConfigError: a size or a length is missing or unknown.
    """
    values = dict(entries)
    size = {key: values.pop(key, None) for key in SIZE_KEYS}
    values["height"], values["width"] = _size(size, source, model.from_pretrained)
    values["num_frames"] = _num_frames(values.get("num_frames"), source, family_of(model.type).has_durations)
    if values.get("save_fps") is None:
        values["save_fps"] = _save_fps(values)
    if isinstance(values.get("dtype"), str):
        values["dtype"] = _DTYPE_NAMES.get(values["dtype"], values["dtype"])
    if isinstance(values.get("prompt"), str):
        values["prompt"] = [values["prompt"]]
    for name in ("reference_path", "mask_strategy"):
        values[name] = _as_texts(values.get(name))
    values["final"] = seed_texts(values.get("final"))
    if values.get("watermark") is None and values.get("watermark_text") is not None:
        values["watermark"] = True
    return values | {name: default for name, default in _NONE_MEANS.items() if values.get(name, default) is None}


def _without_helper_variables(entries: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return `entries` without the variables that the official files set first and then pass into `model`."""
    model = entries.get("model")
    passed_on = official_options.DEFAULTS.keys()

    def is_helper(key: str) -> bool:
        return key in passed_on and isinstance(model, Mapping) and key in model and key not in source.from_command_line

    return {key: value for key, value in entries.items() if not is_helper(key)}


def _as_texts(entry: Any) -> Any:
    """Turn a single text into a list of one, and upstream's empty values into None."""
    if entry in ("", [], [""], (), ("",)):
        return None
    return [entry] if isinstance(entry, str) else entry


def _with_low_memory(entries: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the `entries` of a config, with low-memory values in their place if `low_memory` is set."""
    result = dict(entries)
    if result.get("low_memory") is not True:
        return result
    for section, wanted in _LOW_MEMORY.items():
        prefix = f"{section}." if section else ""
        chosen = {key: value for key, value in wanted.items() if f"{prefix}{key}" not in source.from_command_line}
        if not section:
            result |= chosen
        elif isinstance(result.get(section), Mapping):  # any other value gets its own error
            has = section_class(section, result[section]).__pydantic_fields__
            result[section] = {**result[section], **{key: value for key, value in chosen.items() if key in has}}
    return result


def _with_cache_in_cpu_memory(config: SampleConfig, source: Source) -> SampleConfig:
    """Return `config` with its cache in CPU memory if `low_memory` is set; the command line wins.

    This waits for the cache to be known: it may come from official options, a target, a draft or a final.
    """
    if not config.low_memory or config.cache is None or "cache.cache_device" in source.from_command_line:
        return config
    return dataclasses.replace(config, cache=dataclasses.replace(config.cache, cache_device="cpu"))


def _size(size: Mapping[str, Any], source: Source, model: str) -> tuple[int, int]:
    """Return height and width in pixels, from `image_size` or from `resolution` and `aspect_ratio` (None: unset).

    Args:
        model: where the transformer is; if a part is missing, the error names the sizes it was trained on.

    Raises:
        ConfigError: neither or both are given, or a name is unknown.
    """
    names = {key: size[key] for key in ("resolution", "aspect_ratio") if size[key] is not None}
    if size["image_size"] is not None:
        if names:
            raise source.error(
                "image_size", f"image_size and {next(iter(names))} cannot be combined; set one of them to None"
            )
        return read_value(size["image_size"], tuple[int, int], "image_size", source)
    if len(names) < 2:
        missing = next(key for key in ("resolution", "aspect_ratio") if key not in names)
        known = trained_on(model)
        hint = "" if known is None else f"; {known.name} was trained on {known.sizes()}"
        raise source.error(
            SIZE_KEYS, f"'{missing}' is missing; a size is resolution and aspect_ratio, or image_size{hint}"
        )
    for key, value in names.items():
        read_value(value, str | int, key, source)
    try:
        return get_image_size(names["resolution"], names["aspect_ratio"])
    except ValueError as error:
        raise source.error(SIZE_KEYS, one_line(error)) from error


def _num_frames(num_frames: Any, source: Source, has_durations: bool = True) -> int:
    """Return the number of frames for a duration ("2s") or a number.

    Args:
        has_durations: whether durations have a meaning for the model.

    Raises:
        ConfigError: it is missing, or neither of the two.
    """
    if num_frames is None:
        forms = "a duration ('2s') or a number of frames" if has_durations else "a number of frames"
        raise source.error("num_frames", f"'num_frames' is missing; give {forms}")
    read_value(num_frames, int | float | str, "num_frames", source)
    if num_frames in NUM_FRAMES_MAP and not has_durations:
        raise source.error(
            "num_frames", f"num_frames={num_frames!r} is a duration of Open-Sora; give this model a number of frames"
        )
    try:
        return get_num_frames(num_frames)
    except ValueError as error:
        raise source.error("num_frames", one_line(error)) from error


def _save_fps(entries: Mapping[str, Any]) -> int:
    """Return the frame rate of the mp4 if the config does not say: every `frame_interval`-th of `fps` frames."""
    fps, interval = entries.get("fps", 24), entries.get("frame_interval", 1)
    usable = all(isinstance(number, int) and number > 0 for number in (fps, interval))
    return max(1, fps // interval) if usable else 1  # unusable numbers get their own error


def _missing_switches(config: SampleConfig, source: Source) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield entries that were given by hand without the switch that they need, and one sentence each."""
    for key, switch in _SWITCHES.items():
        if key not in source.from_command_line:  # the section of another model may not have it
            continue
        if attrgetter(key)(config) is not None and not attrgetter(switch)(config):
            yield (key,), f"{key} has no effect without {switch}; set {switch}=True, or leave {key} out"


def _conflicts(config: SampleConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield problems that the types of entries do not rule out: the entries to blame, and one sentence each."""
    if getattr(config.scheduler, "use_timestep_transform", False) and config.multi_resolution is None:
        yield (
            ("multi_resolution",),
            "scheduler.use_timestep_transform needs the size of the video; set multi_resolution='STDiT2'",
        )
    if config.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", config.device):
        yield ("device",), f"device must be 'cpu', 'cuda' or 'cuda:N', got '{config.device}'"
    if config.end_index is not None and config.end_index <= config.start_index:
        yield ("end_index",), f"end_index ({config.end_index}) must be above start_index ({config.start_index})"
    if config.end_index is not None and config.prompt is not None:
        yield (
            ("end_index",),
            "end_index chooses a part of a prompt file, and this run has a list of prompts; leave it out",
        )
    if config.watermark and not config.watermark_text.strip():
        yield ("watermark", "watermark_text"), "watermark_text is empty; give it a word, or leave the watermark out"
    if config.llm_refine and not (config.llm_endpoint and config.llm_model):
        missing = "llm_model" if config.llm_endpoint else "llm_endpoint"
        yield (
            ("llm_refine", missing),
            f"llm_refine needs {missing}; set llm_endpoint='http://HOST:PORT/v1' and llm_model to what it serves",
        )
    if config.loop > 1:
        yield from _conflicts_of_a_loop(config)
    if not config.save_dir.strip():
        yield ("save_dir",), "save_dir is empty; name a folder, '.' for this one"
    name = config.sample_name
    if name is not None and (name == ".." or Path(name).name != name):
        yield ("sample_name",), f"sample_name must be a file name, got '{name}'; folders go to save_dir"


def _conflicts_of_a_loop(config: SampleConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield problems of loops: clips must consist of whole chunks, and be longer than the part they take over."""
    chunk, carried = config.vae.frames_per_chunk(config.num_frames), config.condition_frame_length
    latents, all_latents = config.vae.latent_frames(chunk), config.vae.latent_frames(config.num_frames)
    if config.num_frames % chunk or config.num_frames < 2:
        yield (
            ("loop", "num_frames"),
            f"loop={config.loop} needs clips of whole chunks of {chunk} frames, got num_frames={config.num_frames}",
        )
    if carried % latents:
        yield (
            ("condition_frame_length",),
            f"condition_frame_length is {carried}; a loop takes over whole chunks, multiples of {latents} latent "
            "frames",
        )
    if config.align is not None and config.align % latents:
        yield (
            ("align",),
            f"align is {config.align}; with loops it must be a multiple of a chunk's {latents} latent frames",
        )
    if carried >= all_latents:
        yield (
            ("condition_frame_length", "num_frames", "loop"),
            f"condition_frame_length={carried} leaves nothing to generate in clips of {config.num_frames} frames "
            f"({all_latents} latent ones); set a larger num_frames",
        )
