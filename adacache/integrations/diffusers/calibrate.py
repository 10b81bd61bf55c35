"""Calibrates a diffusers pipeline, and makes schedules from the result for a speedup or a quality."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adacache.calibration.calibrate import calibrate
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import Aim, CalibrationPlan, Clip, split_clips
from adacache.calibration.replay import RunStopped
from adacache.calibration.target import Target
from adacache.controller import StepController
from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.hook import hook, unhook
from adacache.integrations.diffusers.pipeline import DenoisingLoop, cached_forwards_of, check_diffusers, check_free
from adacache.integrations.diffusers.runs import Runs, RunStart
from adacache.policies.static import StaticScheduleConfig
from adacache.validation import check_count

logger = logging.getLogger(__name__)

Encode = Callable[[list[str]], Mapping[str, Any]]
# Arguments of a pipeline's call that a calibration sets itself.
_OWN = ("prompt", "generator", "latents", "output_type", "return_dict", "num_videos_per_prompt")
# What messages call the conditions of a calibration.
_NAMES = {
    "transformers": "the transformers",
    "num_blocks": "numbers of blocks",
    "latents": "latents of shape",
    "guidance_scale": "guidance scale",
    "further_guidance": "further guidance",
}
_GUIDANCE = ("guidance_scale", "further_guidance")
_ELEMENTS = 256  # of each tensor, which tell it from another one


def calibrate_pipeline(
    pipe: Any,
    prompts: Sequence[str],
    *,
    aim: Aim = "repeat",
    fit_clips: int = 4,
    held_out_clips: int = 8,
    candidates: int = 3,
    batch_size: int = 1,
    seed: int = 0,
    encode: Encode | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **call: Any,
) -> Calibration:
    """Find out which steps of a diffusers pipeline need not be computed, and what that costs in quality.

    Some clips are sampled with every step computed. On these records, lists of computed steps are searched and
    coefficients are fitted that combine the last outputs across each gap; other clips measure the best ones.
    `apply_adacache(pipe, calibration=..., speedup=...)` uses the result, which `Calibration.save` writes to a file.

    Args:
        prompts: at least two different ones; prompts that are fitted to are not measured on.
        aim: "repeat" reproduces the video with every step computed; "solution" comes near the result of many more
            steps, which needs a scheduler whose times lie among those of more steps.
        fit_clips: number of clips to fit to.
        held_out_clips: number of other clips to measure on.
        candidates: how many lists of computed steps are fitted for each number of computed steps.
        batch_size: clips sampled together.
        seed: seed of the first clip's noise; it counts up.
        encode: turns a batch of prompts into arguments of the pipeline's call, such as precomputed embeddings; without
            it the pipeline is called with the prompts, and encodes them again for every run.
        checkpoint: file that keeps finished parts, so that a calibration that was stopped, or whose result was not
            saved, can continue; with other weights or arguments it begins anew. Delete it once the result is saved.
        progress: whether to show a bar.
        call: other arguments of the pipeline's call, such as num_inference_steps, height, guidance_scale.

    Raises:
        ValueError: the pipeline is unknown, modular, is cached already or makes a sound; an option is wrong; or a run
            has too few steps, or steps that do not descend.
        RuntimeError: diffusers is too old.
    """
    check_diffusers()
    check_count("fit_clips", fit_clips)
    check_count("held_out_clips", held_out_clips)
    given = [name for name in _OWN if name in call]
    if given:
        raise ValueError(f"calibrate_pipeline sets {given[0]} itself; leave it out")
    if isinstance(pipe, getattr(diffusers, "ModularPipeline", ())):
        raise ValueError(
            f"{type(pipe).__name__} is modular, and what it returns is not known; calibrate the pipeline that has the "
            "same transformer, and give apply_adacache the result"
        )
    fit, held_out = split_clips(prompts, fit_clips, held_out_clips, seed)
    plan = CalibrationPlan(fit, held_out, aim, candidates, batch_size)
    cached = cached_forwards_of(pipe)
    for forward in cached:
        check_free(forward.transformer)
        if forward.family.audio:
            raise ValueError(
                f"a calibration is fitted to the picture alone, but {forward.family.name} can denoise a sound with it; "
                "give apply_adacache a config instead"
            )
    with PipelineClips(pipe, encode or _encoder_of(pipe), call).hooked() as sampler:
        start = sampler.peek(fit[0])
        plan.check(len(start.timesteps))
        if any(a < b for a, b in zip(start.timesteps, start.timesteps[1:], strict=False)):
            raise ValueError(
                f"the timesteps of {type(pipe.scheduler).__name__} go back and forth, which a calibration cannot "
                "describe; use another scheduler"
            )
        conditions = {**_model_conditions(cached), **_run_conditions(start), "scheduler": start.scheduler}
        if plan.refinement > 1:
            with sampler.refined(plan.refinement):
                sampler.check_refined(sampler.peek(fit[0]), start, plan.refinement)
        total = plan.num_calls(len(start.timesteps))
        with tqdm(total=total, desc="calls", unit="call", disable=not progress) as bar:
            path = None if checkpoint is None else Path(checkpoint)
            made_with = None if path is None else sampler.made_with(fit[0])
            return calibrate(sampler, plan, conditions, start.timesteps, bar.update, path, made_with)


def _encoder_of(pipe: Any) -> Encode:
    """Return what passes the prompts on as they are, one by itself if the pipeline takes no list."""
    parameter = inspect.signature(pipe.__call__).parameters.get("prompt")
    takes_one = parameter is not None and parameter.annotation in (str, "str")

    def encode(prompts: list[str]) -> Mapping[str, Any]:
        if not takes_one:
            return {"prompt": prompts}
        if len(prompts) > 1:
            raise ValueError(f"{type(pipe).__name__} samples one prompt at a time; use batch_size=1")
        return {"prompt": prompts[0]}

    return encode


class PipelineClips:
    """Samples clips with a pipeline while it is `hooked`; an `adacache.calibration.runner.ClipSampler`.

    Args:
        encode: turns a batch of prompts into arguments of the pipeline's call.
        call: other arguments of the pipeline's call.
    """

    def __init__(self, pipe: Any, encode: Encode, call: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self._encode = encode
        self._call = call
        self._controller: StepController | None = None
        self._start: RunStart | None = None
        self._peeking = False
        self._is_sampling = False
        self._factor = 1

    @contextmanager
    def hooked(self) -> Iterator[Self]:
        """Hook the pipeline and hide its progress bars within the block."""
        pipe, cached = self._pipe, cached_forwards_of(self._pipe)
        bars = dict(getattr(pipe, "_progress_bar_config", {}))
        hook(cached, Runs(DenoisingLoop(pipe), self._begin, lambda _: None))
        try:
            pipe.set_progress_bar_config(**{**bars, "disable": True})
            yield self
        finally:
            pipe.set_progress_bar_config(**bars)
            for forward in cached:
                unhook(forward.transformer)

    @property
    def num_steps(self) -> int:
        """Steps of every run; known after `peek`."""
        return len(self._start.timesteps)

    def peek(self, clip: Clip) -> RunStart:
        """Start a run, stop it at its first call, and return what is known by then; it holds for all runs."""
        self._peeking = True
        try:
            self._frames([clip], "latent")
        except _Peeked:
            return self._start
        finally:
            self._peeking = False
        raise RuntimeError("the pipeline did not call its transformer")

    def made_with(self, clip: Clip) -> dict[str, str]:
        """Return what results depend on besides conditions and plan: digests of the weights and of a clip's call."""
        weights = [
            {**dict(forward.transformer.named_parameters()), **dict(forward.transformer.named_buffers())}
            for forward in cached_forwards_of(self._pipe)
        ]
        return {"weights": _digest(weights), "call": _digest({**self._call, **self._encode([clip.prompt])})}

    @contextmanager
    def refined(self, factor: int) -> Iterator[None]:
        """Within the block, sample with `factor` steps in place of each one."""
        self._factor, start = factor, self._start
        try:
            if factor > 1:
                self._start = replace(start, timesteps=list(np.repeat(start.timesteps, factor)))
            yield
        finally:
            self._factor, self._start = 1, start

    @staticmethod
    def check_refined(many: RunStart, start: RunStart, factor: int) -> None:
        """Refuse, with a ValueError, a run whose times do not lie among those of one with more steps."""
        times = many.timesteps[::factor]
        if len(times) != len(start.timesteps) or not np.allclose(times, start.timesteps, rtol=1e-4):
            raise ValueError(
                f"the times of {len(many.timesteps)} steps do not include those of {len(start.timesteps)}, so there is "
                "no exact solution to compare with; use aim='repeat'"
            )

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Return the final latents (B, ...), as the pipeline returns them."""
        self._controller, self._is_sampling = controller, False
        latents = self._frames(clips, "latent")
        return latents[-1] if isinstance(latents, list) else latents  # a list grows by section; its last item has all

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """Return the same batch as videos, (F, H, W, 3) uint8 each."""
        self._controller, self._is_sampling = controller, False
        videos = [np.asarray(video) for video in self._frames(clips, "np")]
        if videos[0].ndim == 3:  # frames (H, W, 3) of the only video
            videos = [np.stack(videos)]
        if len(videos) != len(clips):
            raise ValueError(f"{type(self._pipe).__name__} returned {len(videos)} videos for {len(clips)} prompts")
        return [np.round(video * 255).astype(np.uint8) for video in videos]

    def _frames(self, clips: Sequence[Clip], output_type: str) -> Any:
        """Return the frames that the pipeline returns for a batch of clips."""
        given = {**self._call, **self._encode([clip.prompt for clip in clips])}
        if self._factor > 1:
            default = inspect.signature(self._pipe.__call__).parameters["num_inference_steps"].default
            given["num_inference_steps"] = self._factor * given.get("num_inference_steps", default)
        generators = [torch.Generator().manual_seed(clip.seed) for clip in clips]
        try:
            return self._pipe(**{**given, "generator": generators, "output_type": output_type}).frames
        except (_Peeked, RunStopped):
            # A pipeline that is offloaded gives the device back at its end, which this run does not reach.
            getattr(self._pipe, "maybe_free_model_hooks", lambda: None)()
            raise

    def _begin(self, start: RunStart) -> StepController:
        self._start = start
        if self._peeking:
            raise _Peeked
        if self._is_sampling:
            raise ValueError(
                "a video that is sampled in sections cannot be calibrated; ask for one section, whose calibration also "
                "holds for the others"
            )
        self._is_sampling = True
        every_step = StaticScheduleConfig(tuple(range(len(start.timesteps))))
        return self._controller or StepController(every_step)


class _Peeked(Exception):
    """Ends a run before its first step."""


def _digest(value: Any) -> str:
    """Return a digest of nested values; of each tensor, its shape and some of its elements count."""
    digest = hashlib.sha256()
    for path, leaf in _leaves(value):
        digest.update(f"{path} {type(leaf).__name__} ".encode())
        if isinstance(leaf, Tensor):
            digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
            if leaf.numel() and not leaf.is_meta:
                some = leaf.detach().flatten()[:: max(1, leaf.numel() // _ELEMENTS)]
                digest.update(some.float().cpu().numpy().tobytes())
        elif hasattr(leaf, "__array__") or hasattr(leaf, "__array_interface__"):  # an array or a picture
            digest.update(np.ascontiguousarray(leaf).tobytes())
        elif isinstance(leaf, str | int | float | None):
            digest.update(repr(leaf).encode())
    return digest.hexdigest()[:16]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested mappings and lists, each with its path."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for place, entry in enumerate(value):
            yield from _leaves(entry, f"{path}.{place}")
    else:
        yield path, value


def schedules_from(
    calibration: Calibration | str | os.PathLike[str] | None, target: Target | None, cached: Sequence[CachedForward]
) -> Callable[[RunStart], StaticScheduleConfig]:
    """Return what gives each run the schedule that meets the target, from a calibration of the model or its file.

    It raises a ValueError if no schedule does, or if the calibration was made for another video size or guidance scale.

    Raises:
        TypeError: the calibration or the target is missing.
        OSError: the file cannot be read.
        ValueError: the file holds something else, or the calibration was made for other transformers.
    """
    if calibration is None:
        raise TypeError(
            f"{target.kind} needs a calibration of this model: make one with calibrate_pipeline, and pass it or its "
            "file as calibration="
        )
    if target is None:
        raise TypeError("a calibration needs a target: speedup=, max_steps_computed= or min_psnr=")
    known = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
    _check_conditions(known, _model_conditions(cached))

    def schedule_of_run(start: RunStart) -> StaticScheduleConfig:
        _check_conditions(known, _run_conditions(start))
        made_with = known.conditions.get("scheduler", start.scheduler)
        if made_with != start.scheduler:
            logger.warning(
                "AdaCache: the calibration was made with %s, and this run's scheduler is %s: its quality is not what "
                "was measured",
                made_with,
                start.scheduler,
            )
        return target.resolve(known, start.timesteps)

    return schedule_of_run


def _model_conditions(cached: Sequence[CachedForward]) -> dict[str, Any]:
    """Return the conditions of a calibration that the transformers determine; weights are not among them."""
    return {
        "transformers": [type(forward.transformer).__name__ for forward in cached],
        "num_blocks": [forward.num_blocks for forward in cached],
    }


def _run_conditions(start: RunStart) -> dict[str, Any]:
    """Return the conditions of a calibration that a run's first call determines."""
    guidance = {name: getattr(start, name) for name in _GUIDANCE}
    return {"latents": list(start.latents), **guidance}


def _check_conditions(calibration: Calibration, conditions: Mapping[str, Any]) -> None:
    """Refuse, with a ValueError, a calibration that was made under other conditions."""
    for key, value in conditions.items():
        made_for = calibration.conditions.get(key)
        is_older = key in _GUIDANCE and key not in calibration.conditions
        if key in _GUIDANCE and value is None and made_for is not None:
            raise ValueError(
                f"the calibration was made for {_NAMES[key]} {made_for}, and what calls the transformer does not say "
                "its own; apply_adacache to the pipeline that is called"
            )
        if made_for != value and not is_older:
            raise ValueError(f"the calibration was made for {_NAMES[key]} {made_for}, not {value}; make another one")
