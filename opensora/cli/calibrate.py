"""A calibration of the sampling pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from adacache.calibration.calibrate import calibrate
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import CalibrationPlan
from opensora.cli.pipeline_clips import PipelineClips
from opensora.config.conditions import conditions_of, fingerprint
from opensora.config.target import timesteps_of
from opensora.errors import ConfigError

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline


def calibrate_sampler(pipe: SamplingPipeline, plan: CalibrationPlan, finished: Callable[[int], object]) -> Calibration:
    """Calibrate a loaded pipeline.

    Args:
        finished: is told about every few finished clips; ``plan.num_clips`` says how many there will be.

    Raises:
        SamplingError: a run's latents or pixels are not finite.
        ConfigError: the run has too few steps to leave any out.
    """
    sampler = PipelineClips(pipe)
    try:
        plan.check(sampler.num_steps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    model = pipe.config.model.from_pretrained
    conditions = {"model": fingerprint(model), "model_name": model, **conditions_of(pipe.config)}
    # As a run's schedule is looked up by; the pipeline's own differ from them by what its dtype rounds off.
    return calibrate(sampler, plan, conditions, timesteps_of(pipe.config), finished)
