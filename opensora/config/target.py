"""Targets instead of thresholds: a speedup, a number of computed steps or a quality, met by a calibrated schedule.

Drafts and finals have built-in targets: many seeds under a strong cache, then the chosen ones under a weak cache.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import REFERENCES
from adacache.calibration.target import LEAST_COMPUTED, TARGETS, read_target
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.multistep import MultistepConfig
from opensora.config.reading import Source
from opensora.config.schema import SampleConfig
from opensora.environment import command_line
from opensora.errors import ConfigError, one_line
from opensora.files import find_path
from opensora.registry import SCHEDULERS, build_module
from opensora.weights import fingerprint

logger = logging.getLogger(__name__)

MODES = ("draft", "final")
# Names of the conditions that a config determines, as a user would say them.
_NAMES = {
    "image_size": "image size (height, width)",
    "num_frames": "number of frames",
    "cfg_scale": "guidance scale",
    "solver": "solver",
}

_DEFAULT_CONDITIONS = {"solver": "euler"}  # of calibrations that do not name the condition


def apply_target(config: SampleConfig, source: Source) -> SampleConfig:
    """Return `config` with the cache that its target asks for; unchanged without a target.

    Options that say how reuse works but not when (device and dtype of what is kept, schedule) are taken over from the
    config's own cache.

    Raises:
        ConfigError: there are several targets, or the target is out of reach, or its calibration is missing or was made
            for something else.
    """
    values = {name: getattr(config, name) for name in TARGETS}
    given = [name for name, value in values.items() if value is not None]
    if not given:
        return config
    if config.replay is not None:
        raise source.error("replay", f"replay and {given[0]} cannot be combined; give only one of them")
    try:
        target = read_target(values)
    except ValueError as error:
        raise source.error(tuple(given), one_line(error)) from error
    _, calibration = _calibration(config, given[0], source)
    try:
        times = timesteps_of(config)
        schedule = with_memory_options(target.resolve(calibration, times), config.cache)
    except ValueError as error:
        raise source.error(given[0], one_line(error)) from error
    by_hand = sorted({"cache.cache_dtype", "cache.schedule"} & source.from_command_line)
    if by_hand and isinstance(schedule, MultistepConfig):
        raise source.error(by_hand[0], f"{by_hand[0]} has no effect with {given[0]}; leave one of them out")
    count, steps = len(schedule.computed_steps), config.scheduler.num_model_calls
    # Beyond the measured counts the curve only repeats its ends, and in a run of another length or at other times
    # something else stands in for the steps that are left out: no figure is better than one that flatters.
    measured = [len(point.computed_steps) for point in calibration.measured]
    is_known = calibration.fits(times) and count < steps and measured[0] <= count <= measured[-1]
    quality = f", {calibration.psnr(count):.1f} dB (mean) to {REFERENCES[calibration.aim]}" if is_known else ""
    logger.info(
        "%s %s: %d of %d steps are computed, denoising %.1fx as fast%s",
        given[0],
        values[given[0]],
        count,
        steps,
        calibration.speedup(count, steps),
        quality,
    )
    return replace(config, cache=schedule)


def conditions_of(config: SampleConfig) -> dict[str, Any]:
    """Return the conditions of a run that its config determines, as plain values."""
    return {
        "image_size": [config.height, config.width],
        "num_frames": config.num_frames,
        "cfg_scale": config.scheduler.cfg_scale,
        "solver": config.scheduler.solver,
    }


def mismatch(conditions: Mapping[str, Any], config: SampleConfig) -> str | None:
    """Name the first of a calibration's `conditions` that `config` does not meet; None if there is none."""
    made_for = {**_DEFAULT_CONDITIONS, **conditions}
    for key, value in conditions_of(config).items():
        if key not in made_for:
            return f"it does not say which {_NAMES[key]} it was made for"
        if made_for[key] != value:
            return f"it was made for {_NAMES[key]} {made_for[key]}, but this run has {value}"
    return None


def check_calibrated_model(config: SampleConfig) -> None:
    """Check that the calibration of a config with a target was made with the weights in `model.from_pretrained`.

    That has to be a folder by now. Without a target nothing is checked.

    Raises:
        ConfigError: it was made with other weights, or does not exist any more.
        WeightsError: the folder holds no weights.
    """
    target = next((name for name in TARGETS if getattr(config, name) is not None), None)
    if target is None:
        return
    source = Source(config.path)
    path, calibration = _calibration(config, target, source)
    made_for, model = calibration.conditions, config.model.from_pretrained
    if made_for.get("model") != fingerprint(model):
        raise source.error(
            "calibration",
            f"calibration {path} was made for {made_for.get('model_name', 'a model')} with other weights than those in "
            f"{model}; run '{command_line('calibrate')}' for this model",
        )


def timesteps_of(config: SampleConfig) -> tuple[float, ...]:
    """Return the times of all steps (model calls) of a run, descending; some solvers call twice at the same time."""
    scheduler = build_module(vars(config.scheduler), SCHEDULERS)
    return scheduler.times_of_calls(config.height, config.width, config.num_frames)


def find_calibration(name: str, config_path: str) -> Path | None:
    """Find a calibration file: beside the config file, from the working directory or the repository's root."""
    try:
        beside = Path(config_path).parent / name
        return beside if beside.is_file() else find_path(name)
    except OSError:  # a name that is too long
        return None


def _calibration(config: SampleConfig, target: str, source: Source) -> tuple[Path, Calibration]:
    """Return the file and the content of the calibration that a `target` needs.

    Raises:
        ConfigError: none is named, it is missing or cannot be read, or was made for another setting.
    """
    command = command_line("calibrate")
    if config.calibration is None:
        raise source.error(
            target,
            f"{target} needs a calibration of this model; run '{command} {quote(config.path)}' and set "
            "calibration to the file it writes",
        )
    path, calibration = _read_calibration(config, source)
    difference = mismatch(calibration.conditions, config)
    if difference:
        raise source.error(
            "calibration", f"calibration {path} does not fit: {difference}; run '{command}' for this setting"
        )
    return path, calibration


def _read_calibration(config: SampleConfig, source: Source) -> tuple[Path, Calibration]:
    """Return the file and the content of the calibration that `config` names.

    Raises:
        ConfigError: it is missing or cannot be read.
    """
    path = find_calibration(config.calibration, config.path)
    try:
        if path is None:
            folder = Path(config.calibration).parent
            command = f"{command_line('calibrate')} {quote(config.path)} --output {quote(str(folder))}"
            raise ValueError(f"there is no file {config.calibration}; '{command}' makes a calibration.json")
        return path, Calibration.load(path)
    except OSError as error:
        raise source.error("calibration", f"calibration: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise source.error("calibration", f"calibration: {one_line(error)}") from error


def with_memory_options(schedule: PolicyConfig, cache: Any) -> PolicyConfig:
    """Return `schedule`, the config of any policy, with the memory and batch options of the config's own cache.

    What keeps outputs instead of residuals takes over only where they are kept: it has no use for the other options.
    """
    if not isinstance(cache, PolicyConfig):
        return schedule
    if isinstance(schedule, MultistepConfig):
        return replace(schedule, cache_device=cache.cache_device)
    return replace(schedule, cache_device=cache.cache_device, cache_dtype=cache.cache_dtype, schedule=cache.schedule)


# Share of the steps that is computed, if a calibration says which. On the mini model (30 steps) 8 steps keep about
# 55 dB to the uncached video, and 20 about 73 dB, a loss nobody can see, so more would only cost time.
DRAFT_SHARE = 0.27
FINAL_SHARE = 0.67
# Without a calibration: the official codebooks for 30 steps.
DRAFT_CODEBOOK, FINAL_CODEBOOK = "fast30", "slow30"


def replaces_cache(entries: Mapping[str, Any]) -> bool:
    """Whether config `entries` ask for a target, a draft or a final, each of which replaces the config's cache."""
    return any(entries.get(name) is not None for name in (*TARGETS, *MODES))


def apply_mode(config: SampleConfig, source: Source, depth: int | None) -> SampleConfig:
    """Return `config` with the cache that its target, or else its draft or final, asks for; unchanged without these.

    Without a target, a run too short to leave out a step gets no cache.

    Args:
        depth: number of spatial-temporal block pairs of the model, if known.

    Raises:
        ConfigError: entries cannot be combined, seeds cannot be read, or as for `apply_target`.
    """
    mode = _mode(config, source)
    if mode is None:
        return apply_target(config, source)
    chosen, has_target = config, any(getattr(config, name) is not None for name in TARGETS)
    if not has_target:
        if not _is_calibrated(config, mode, source):
            return replace(config, cache=_validated(_official(config, mode, depth), config, depth, source))
        share, steps = (DRAFT_SHARE if mode == "draft" else FINAL_SHARE), config.scheduler.num_model_calls
        if steps <= LEAST_COMPUTED:
            return replace(config, cache=None)
        chosen = replace(config, max_steps_computed=min(steps, max(LEAST_COMPUTED, round(share * steps))))
    return apply_target(chosen, source)


def _is_calibrated(config: SampleConfig, mode: str, source: Source) -> bool:
    """Whether `config` names a calibration that was made for its setting.

    Raises:
        ConfigError: it names one that cannot be used at all.
    """
    if config.calibration is None:
        return False
    try:
        _, calibration = _read_calibration(config, source)
    except ConfigError as error:
        raise ConfigError(f"{error} (with calibration=None, --{mode} uses an official codebook)") from error
    return mismatch(calibration.conditions, config) is None


def seed_texts(value: Any) -> Any:
    """Return the entry `final` as a list of texts; whole numbers and a single seed are allowed, too."""
    entries = [value] if isinstance(value, int | str) else value
    if not isinstance(entries, list | tuple):
        return value
    return [str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in entries]


def parse_seed(text: str) -> tuple[int | None, int]:
    """Return (prompt index, seed) of "2:1027", or (None, seed) of "1027", which applies to every prompt.

    Raises:
        ValueError: `text` is anything else.
    """
    index, colon, seed = text.rpartition(":")
    if not (seed.isascii() and seed.isdigit()) or (colon and not (index.isascii() and index.isdigit())):
        raise ValueError(f"final takes seeds such as 1024, or 2:1024 for prompt 2 only, got '{text}'")
    return (int(index) if colon else None), int(seed)


def _mode(config: SampleConfig, source: Source) -> str | None:
    """Return "draft", "final" or None.

    Raises:
        ConfigError: there are two modes, or a mode and a replay, or seeds cannot be read.
    """
    given = [name for name in ("draft", "final", "replay") if getattr(config, name) is not None]
    if len(given) > 1:
        raise source.error(tuple(given), f"{given[0]} and {given[1]} cannot be combined; give only one of them")
    if config.final is not None:
        try:
            seeds = [parse_seed(text) for text in config.final]
        except ValueError as error:
            raise source.error("final", str(error)) from error
        if not seeds:
            raise source.error("final", "final names no seed; give at least one")
    return given[0] if given and given[0] != "replay" else None


def _official(config: SampleConfig, mode: str, depth: int | None) -> PolicyConfig:
    """Return a cache with an official codebook, for a model or a setting without a calibration.

    It measures what the config's cache measures, else temporal attention (of an image, spatial) in the middle block.
    """
    codebook = DRAFT_CODEBOOK if mode == "draft" else FINAL_CODEBOOK
    if getattr(config.cache, "metric", None) is not None:
        measured = {"metric": config.cache.metric, "metric_blocks": config.cache.metric_blocks}
    else:
        is_image = config.vae.latent_frames(config.num_frames) == 1
        measured = {"metric": "s-attn" if is_image else "t-attn"}
        measured |= {} if depth is None else {"metric_blocks": (depth // 2,)}
    logger.info(
        "%s: there is no calibration of this setting, so the official codebook %s decides; '%s %s' makes one, which "
        "gives better videos in the same time",
        mode,
        codebook,
        command_line("calibrate"),
        quote(config.path),
    )
    return with_memory_options(AdaCacheConfig(codebook, **measured), config.cache)


def _validated(cache: PolicyConfig, config: SampleConfig, depth: int | None, source: Source) -> PolicyConfig:
    """Validate and return `cache`: its metric is that of the config's own cache, which has not been validated yet."""
    try:
        cache.validate(config.scheduler.num_model_calls, depth)
    except ValueError as error:
        raise source.error("cache", f"cache: {one_line(error)}") from error
    if doubt := cache.doubt(config.scheduler.num_model_calls):
        logger.warning("%s", doubt)
    return cache
