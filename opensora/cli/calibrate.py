"""Calibrate the sampling pipeline: the clips that are measured, and the files that are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from adacache import StepController
from adacache.atomic import atomic_path
from adacache.calibration.calibrate import calibrate
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import REFERENCES, CalibrationPlan, Clip
from adacache.calibration.plot import plot_calibration
from opensora.cli.identity import config_hash
from opensora.config.entries import read_config_file, retired_by
from opensora.config.target import conditions_of, timesteps_of
from opensora.errors import ConfigError
from opensora.models.text_encoder.encoded_text import CachedTextEncoder
from opensora.schedulers.rf import RFLOW
from opensora.weights import fingerprint

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline

CALIBRATION, SNIPPET, PICTURE = "calibration.json", "calibrated.py", "calibration.png"


@dataclass(frozen=True)
class PipelineClips:
    """An `adacache.calibration.runner.ClipSampler` on a pipeline, whose own cache is not used."""

    pipe: SamplingPipeline

    @property
    def num_steps(self) -> int:
        """Steps of every run as a cache counts them: one per call of the model."""
        return self.pipe.scheduler.num_model_calls

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Sample clips and return their final latents (B, 4, T, H', W').

        Raises:
            SamplingError: latents are not finite.
        """
        prompts, seeds = [clip.prompt for clip in clips], [clip.seed for clip in clips]
        return self.pipe.sample_latents(prompts, seeds, progress=False, controller=controller)

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """Sample and decode clips; return a video (F, H, W, 3) uint8 for each.

        Raises:
            SamplingError: latents or pixels are not finite.
        """
        return list(self.pipe.decode(self.latents(clips, controller), progress=False))

    @contextmanager
    def refined(self, factor: int) -> Iterator[None]:
        """Within the block, take `factor` steps in place of each, with a second-order solver where there is one.

        Raises:
            ValueError: the sampler's times are not among those of the finer run.
        """
        if factor == 1:
            yield
            return
        scheduler, config = self.pipe.scheduler, self.pipe.config
        size = config.height, config.width, config.num_frames
        before, times = dict(vars(scheduler)), scheduler.times_of_calls(*size)
        try:
            scheduler.num_sampling_steps *= factor
            if isinstance(scheduler, RFLOW):
                scheduler.solver = "adams"
            finer = scheduler.times_of_calls(*size)[::factor]
            if len(finer) != len(times) or not np.allclose(finer, times, rtol=1e-4):
                raise ValueError(
                    f"the times of {scheduler.num_sampling_steps} steps do not include those of {len(times)}, so there "
                    "is no exact solution to compare with; aim at 'repeat'"
                )
            yield
        finally:
            vars(scheduler).update(before)

    @contextmanager
    def steps(self, num_steps: int) -> Iterator[None]:
        """Within the block, sample with another number of steps."""
        before, self.pipe.scheduler.num_sampling_steps = self.pipe.scheduler.num_sampling_steps, num_steps
        try:
            yield
        finally:
            self.pipe.scheduler.num_sampling_steps = before


def calibrate_sampler(
    pipe: SamplingPipeline, plan: CalibrationPlan, finished: Callable[[int], object], checkpoint: Path | None = None
) -> Calibration:
    """Calibrate a loaded pipeline.

    Args:
        finished: called every so often with the number of model calls since the last time; `plan.num_calls` is their
            total.
        checkpoint: file from which an interrupted calibration resumes.

    Raises:
        SamplingError: a run's latents or pixels are not finite.
        ConfigError: the run has too few steps to leave any out, or there is no exact solution to aim at.
    """
    sampler = PipelineClips(pipe)
    try:
        plan.check(sampler.num_steps)
        with sampler.refined(plan.refinement):
            pass
    except ValueError as error:
        raise ConfigError(str(error)) from error
    model, vae, text = (getattr(pipe.config, name).from_pretrained for name in ("model", "vae", "text_encoder"))
    made_with = {"config": config_hash(pipe.config), "weights": [fingerprint(vae), fingerprint(text)]}
    conditions = {"model": fingerprint(model), "model_name": model, **conditions_of(pipe.config)}
    # Every clip is run many times, most of them without the model: its text must not be encoded each time.
    encoder, pipe.text_encoder = pipe.text_encoder, CachedTextEncoder(pipe.text_encoder)
    try:
        # A run looks its schedule up by these timesteps; the pipeline's own differ by the rounding of its dtype.
        return calibrate(sampler, plan, conditions, timesteps_of(pipe.config), finished, checkpoint, made_with)
    finally:
        pipe.text_encoder = encoder


def write_calibration(
    calibration: Calibration,
    folder: Path,
    config_path: Path,
    options: Mapping[str, Any],
    target: tuple[str, float],
) -> None:
    """Write the calibration, a config that uses it, and the plot.

    The config inherits from `config_path` and adds the `options` it was calibrated with, by dotted key, and the name
    and value of the `target`. Each file appears complete or not at all, the calibration first.
    """
    calibration.save(folder / CALIBRATION)
    with atomic_path(folder / SNIPPET) as temporary:
        temporary.write_text(_snippet(calibration, folder, config_path, options, target), encoding="utf-8")
    plot_calibration(calibration, folder / PICTURE)


def curve_table(calibration: Calibration) -> str:
    """Return the measured curve as text, one line per number of computed steps."""
    reference = REFERENCES[calibration.aim]
    lines = [f"computed of {calibration.num_steps}   denoising   PSNR to {reference}: mean (lowest)"]
    for point in calibration.measured:
        count = len(point.computed_steps)
        speedup = calibration.speedup(count, calibration.num_steps)
        spread = f" +- {point.psnr_error:.1f}" if calibration.details.get("held_out_clips") != 1 else ""
        lines.append(f"{count:>14} {speedup:>10.1f}x   {point.psnr:.1f}{spread} dB ({point.psnr_lowest:.1f})")
    uncached = calibration.details.get("uncached_psnr")
    if uncached is not None:
        lines.append(f"{calibration.num_steps:>14} {1:>10.1f}x   {uncached:.1f} dB, without a cache")
    return "\n".join(lines)


def _snippet(
    calibration: Calibration, folder: Path, config_path: Path, options: Mapping[str, Any], target: tuple[str, float]
) -> str:
    name, value = target
    in_base = read_config_file(config_path)
    retired = [key for key in sorted(retired_by({**options, name: value})) if in_base.get(key) is not None]
    entries = "".join(f"{key} = {value!r}\n" for key, value in {**dict.fromkeys(retired), **_nested(options)}.items())
    comment = "\n".join(f"#   {line}" for line in curve_table(calibration).splitlines())
    base = os.path.relpath(config_path.resolve(), folder.resolve())
    return (
        f"# Measured on {calibration.details['held_out_clips']} held-out clips:\n{comment}\n"
        f"_base_ = {base!r}\n\n{entries}"
        f"calibration = {CALIBRATION!r}  # beside this file\n"
        f"{name} = {value!r}  # or one of: speedup = 2.0, max_steps_computed = 12, min_psnr = 35\n"
    )


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Nest dotted keys: `{"scheduler.cfg_scale": 5}` becomes `{"scheduler": {"cfg_scale": 5}}`."""
    entries: dict[str, Any] = {}
    for key, value in options.items():
        *path, name = key.split(".")
        section = entries
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return entries
