"""Outcomes instead of thresholds: a speedup, a number of computed steps or a quality, met by a calibrated schedule."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensora.config.reading import Source
from opensora.utils.errors import one_line
from opensora.utils.files import find_path

if TYPE_CHECKING:
    from adacache.calibration.calibration import Calibration
    from adacache.policies.static import StaticScheduleConfig
    from opensora.config.schema import SampleConfig

logger = logging.getLogger(__name__)


def apply_target(config: SampleConfig, source: Source) -> SampleConfig:
    """``config`` with the cache that its target asks for; unchanged without a target.

    Options that say how reuse works but not when (device and dtype of what is kept, schedule) are taken over from the
    config's own cache.

    Raises:
        ConfigError: several targets, one out of reach, no calibration, or a calibration of something else.
    """
    from adacache.calibration.target import TARGETS, read_target

    values = {name: getattr(config, name) for name in TARGETS}
    given = [name for name, value in values.items() if value is not None]
    if not given:
        return config
    if config.replay is not None:
        raise source.error("replay", f"replay and {given[0]} exclude each other; give one of them")
    try:
        target = read_target(values)
    except ValueError as error:
        raise source.error(tuple(given), one_line(error)) from error
    calibration = _load(config, given[0], source)
    try:
        schedule = target.resolve(calibration, timesteps_of(config))
    except ValueError as error:
        raise source.error(given[0], one_line(error)) from error
    count, steps = len(schedule.computed_steps), config.scheduler.num_sampling_steps
    logger.info(
        "%s %s: %d of %d steps are computed, denoising %.1fx as fast, %.1f dB (mean) to the uncached video",
        given[0],
        values[given[0]],
        count,
        steps,
        calibration.speedup(count, steps),
        calibration.psnr(count),
    )
    return replace(config, cache=_with_memory_options(schedule, config.cache))


def timesteps_of(config: SampleConfig) -> tuple[float, ...]:
    """The scheduler's times of all steps of a run, descending."""
    import torch

    from opensora.schedulers.rf import RFLOW

    scheduler = RFLOW(**{name: value for name, value in vars(config.scheduler).items() if name != "type"})
    size = {name: torch.tensor([float(getattr(config, name))]) for name in ("height", "width", "num_frames")}
    return tuple(float(t[0]) for t in scheduler.timesteps(1, "cpu", size))


def find_calibration(name: str, config_path: str) -> Path | None:
    """A calibration file, looked up beside the config file, from the working directory and the repository's root."""
    beside = Path(config_path).parent / name
    return beside if beside.is_file() else find_path(name)


def _load(config: SampleConfig, target: str, source: Source) -> Calibration:
    from adacache.calibration.calibration import Calibration
    from opensora.calibration.conditions import mismatch

    if config.calibration is None:
        raise source.error(
            target,
            f"{target} needs a calibration of this model; run 'python scripts/calibrate.py {config.path}' and set "
            "calibration to the file it writes",
        )
    path = find_calibration(config.calibration, config.path)
    if path is None:
        raise source.error("calibration", f"calibration: there is no file {config.calibration}")
    try:
        calibration = Calibration.load(path)
    except OSError as error:
        raise source.error("calibration", f"calibration: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise source.error("calibration", f"calibration: {one_line(error)}") from error
    difference = mismatch(calibration.conditions, config)
    if difference:
        raise source.error(
            "calibration", f"calibration {path} does not fit: {difference}; run scripts/calibrate.py for this setting"
        )
    return calibration


def _with_memory_options(schedule: StaticScheduleConfig, cache: Any) -> StaticScheduleConfig:
    """``schedule`` with what the config's own cache says about memory and batches."""
    from adacache.options import ReuseOptions

    if not isinstance(cache, ReuseOptions):
        return schedule
    return replace(schedule, cache_device=cache.cache_device, cache_dtype=cache.cache_dtype, schedule=cache.schedule)
