"""Calibrating a diffusers pipeline, and schedules from what came out: a speedup or a quality can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adacache.calibration.calibrate import calibrate
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import CalibrationPlan, Clip, split_clips
from adacache.calibration.simulation import SIMULATED
from adacache.calibration.target import Target
from adacache.controller import StepController
from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.hook import hook, unhook
from adacache.integrations.diffusers.pipeline import DenoisingLoop, cached_forwards_of, check_diffusers, check_free
from adacache.integrations.diffusers.runs import Runs, RunStart
from adacache.options import BridgeConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.validation import check_choice, check_count

Encode = Callable[[list[str]], Mapping[str, Any]]
# Arguments of a pipeline's call that a calibration gives itself.
_OWN = ("prompt", "generator", "latents", "output_type", "return_dict", "num_videos_per_prompt")
# Names of the conditions of a calibration, as a user would say them.
_NAMES = {"transformers": "the transformers", "num_blocks": "numbers of blocks", "latents": "latents of shape"}


def calibrate_pipeline(
    pipe: Any,
    prompts: Sequence[str],
    *,
    search_clips: int = 8,
    held_out_clips: int = 16,
    candidates: int = 3,
    bridge: str = "fitted",
    batch_size: int = 1,
    seed: int = 0,
    encode: Encode | None = None,
    progress: bool = True,
    **call: Any,
) -> Calibration:
    """Find out which steps of a diffusers pipeline can be reused, and what that costs in quality.

    Some clips are sampled without reuse, once more for every probed step, and under the schedules that a search finds;
    other clips measure the best ones. `apply_adacache(pipe, calibration=..., speedup=...)` goes by the outcome, which
    `Calibration.save` writes to a file.

    Args:
        prompts: at least two different ones; those of the search measure nothing.
        search_clips, held_out_clips: clips to search on, and to measure on.
        candidates: schedules tried per measured number of computed steps.
        bridge: how a reused step gets its residual: hold, linear or fitted.
        batch_size: clips sampled together.
        seed: of the first clip's noise; it counts up.
        encode: turns a batch of prompts into arguments of the pipeline's call, such as embeddings made beforehand;
            without it the pipeline is called with the prompts, and encodes them again for every clip.
        progress: whether to show a bar.
        call: other arguments of the pipeline's call, such as num_inference_steps, height, guidance_scale.

    Raises:
        ValueError: the pipeline is not known or is cached already, an option is wrong, or a run has too few steps or
            steps that do not descend.
        RuntimeError: diffusers is too old.
    """
    check_diffusers()
    for name, value in {
        "search_clips": search_clips,
        "held_out_clips": held_out_clips,
        "candidates": candidates,
        "batch_size": batch_size,
    }.items():
        check_count(name, value)
    check_choice("bridge", bridge, SIMULATED)
    given = [name for name in _OWN if name in call]
    if given:
        raise ValueError(f"calibrate_pipeline gives {given[0]} itself; leave it out")
    search, held_out = split_clips(prompts, search_clips, held_out_clips, seed)
    plan = CalibrationPlan(search, held_out, BridgeConfig(bridge, weight=0.5), candidates, batch_size)
    cached = cached_forwards_of(pipe)
    for forward in cached:
        check_free(forward.transformer)
    with PipelineClips.of(pipe, encode or _as_prompts, call) as sampler:
        start = sampler.peek(search[0])
        plan.check(len(start.timesteps))
        if any(a < b for a, b in zip(start.timesteps, start.timesteps[1:], strict=False)):
            raise ValueError(
                f"the timesteps of {type(pipe.scheduler).__name__} go back and forth, which a calibration cannot "
                "describe; take another scheduler"
            )
        conditions = {**model_conditions(cached), **run_conditions(start), "scheduler": type(pipe.scheduler).__name__}
        total = plan.num_clips(len(start.timesteps))
        with tqdm(total=total, desc="clips", unit="clip", disable=not progress) as bar:
            return calibrate(sampler, plan, conditions, start.timesteps, bar.update)


def _as_prompts(prompts: list[str]) -> Mapping[str, Any]:
    return {"prompt": prompts}


class PipelineClips:
    """Clips of a hooked pipeline; an `adacache.calibration.runner.ClipSampler`.

    Args:
        make_run: calls the pipeline for a batch of clips, with other arguments; returns its frames.
    """

    def __init__(self, make_run: Callable[..., Any]) -> None:
        self._make_run = make_run
        self._controller: StepController | None = None
        self._start: RunStart | None = None
        self._peeking = False

    @classmethod
    @contextmanager
    def of(cls, pipe: Any, encode: Encode, call: Mapping[str, Any]) -> Iterator[PipelineClips]:
        """Of a pipeline that is hooked for so long, and shows no bars of its own."""

        def make_run(clips: Sequence[Clip], **options: Any) -> Any:
            generators = [torch.Generator().manual_seed(clip.seed) for clip in clips]
            return pipe(
                **{**call, **encode([clip.prompt for clip in clips]), "generator": generators, **options}
            ).frames

        sampler = cls(make_run)
        cached = cached_forwards_of(pipe)
        bars = dict(getattr(pipe, "_progress_bar_config", {}))
        hook(cached, Runs(DenoisingLoop(pipe), sampler._begin, lambda _: None))
        try:
            pipe.set_progress_bar_config(**{**bars, "disable": True})
            yield sampler
        finally:
            pipe.set_progress_bar_config(**bars)
            for forward in cached:
                unhook(forward.transformer)

    @property
    def num_steps(self) -> int:
        """Steps of every run; known after `peek`."""
        return len(self._start.timesteps)

    def peek(self, clip: Clip) -> RunStart:
        """What is known of the runs at their first call, which is not made."""
        self._peeking = True
        try:
            self._make_run([clip], output_type="latent")
        except _Peeked:
            return self._start
        finally:
            self._peeking = False
        raise RuntimeError("the pipeline did not call its transformer")

    def latents(self, clips: Sequence[Clip], controller: StepController | None) -> Tensor:
        """Final latents (B, ...), as the pipeline returns them."""
        self._controller = controller
        return self._make_run(clips, output_type="latent")

    def frames(self, clips: Sequence[Clip], controller: StepController | None) -> list[np.ndarray]:
        """The same as videos, (F, H, W, 3) uint8 each."""
        self._controller = controller
        return [np.round(np.asarray(video) * 255).astype(np.uint8) for video in self._make_run(clips, output_type="np")]

    def _begin(self, start: RunStart) -> StepController:
        self._start = start
        if self._peeking:
            raise _Peeked
        every_step = StaticScheduleConfig(tuple(range(len(start.timesteps))))
        return self._controller or StepController(every_step)


class _Peeked(Exception):
    """Ends a run before its first step."""


def model_conditions(cached: Sequence[CachedForward]) -> dict[str, Any]:
    """What a calibration holds for as far as the transformers tell; weights are not compared."""
    return {
        "transformers": [type(forward.transformer).__name__ for forward in cached],
        "num_blocks": [forward.num_blocks for forward in cached],
    }


def run_conditions(start: RunStart) -> dict[str, Any]:
    """What it holds for as far as a run's first call tells."""
    return {"latents": list(start.latents)}


@dataclass(frozen=True)
class CalibratedTarget:
    """A wish, and what turns it into a schedule."""

    calibration: Calibration
    target: Target

    @classmethod
    def of(cls, calibration: Calibration | str | os.PathLike[str] | None, target: Target | None) -> CalibratedTarget:
        """`calibration` itself or from a file.

        Raises: TypeError when one of the two is missing; OSError when the file cannot be read; ValueError when it holds
        something else.
        """
        if calibration is None:
            raise TypeError(
                f"{target.kind} needs a calibration of this model: make one by calibrate_pipeline, and give it or its "
                "file as calibration="
            )
        if target is None:
            raise TypeError("a calibration needs a target: speedup=, max_steps_computed= or min_psnr=")
        return cls(calibration if isinstance(calibration, Calibration) else Calibration.load(calibration), target)

    def check_model(self, cached: Sequence[CachedForward]) -> None:
        """Raises: ValueError when the calibration was made for other transformers."""
        self._check(model_conditions(cached))

    def config_of_run(self, start: RunStart) -> StaticScheduleConfig:
        """The schedule that meets the target in a run.

        Raises: ValueError when none does, or the calibration was made for videos of another size.
        """
        self._check(run_conditions(start))
        return self.target.resolve(self.calibration, start.timesteps)

    def _check(self, conditions: Mapping[str, Any]) -> None:
        for key, value in conditions.items():
            made_for = self.calibration.conditions.get(key)
            if made_for != value:
                raise ValueError(
                    f"the calibration was made for {_NAMES[key]} {made_for}, not {value}; make another one"
                )
