"""Calibrated targets on diffusers pipelines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.modular_pipelines.wan.denoise import WanDenoiseStep

from adacache.calibration import plan
from adacache.calibration.calibration import Calibration
from adacache.calibration.quality import psnr
from adacache.conformance.tiny import OTHERS, TINY, TinyPipeline
from adacache.conformance.tiny_pipeline import IMAGE, randomize
from adacache.integrations.diffusers import apply_adacache, calibrate_pipeline
from adacache.integrations.diffusers import calibrate as calibrating
from adacache.integrations.diffusers.calibrate import PipelineClips
from adacache.integrations.diffusers.pipeline import DenoisingLoop

STEPS = 8
PROMPTS = ("10", "11", "12")  # seeds of the random embeddings
TEXT = ("embeds", "mask")


@dataclass(frozen=True)
class Calibrated:
    """A pipeline and what a calibration of it gave."""

    tiny: TinyPipeline
    pipe: Any
    calibration: Calibration

    def frames(self, prompt: str, seed: int) -> np.ndarray:
        call = {**self.tiny.arguments(steps=STEPS), **encoder(self.tiny)([prompt])}
        generator = [torch.Generator().manual_seed(seed)]
        video = self.pipe(**{**call, "generator": generator, "output_type": "np"}).frames[0]
        return np.round(np.asarray(video) * 255).astype(np.uint8)


class Backwards(diffusers.DDIMScheduler):
    """From a clean video to noise."""

    def set_timesteps(self, *args: Any, **options: Any) -> None:
        super().set_timesteps(*args, **options)
        self.timesteps = self.timesteps.flip(0)


def encoder(tiny: TinyPipeline):
    def encode(prompts: list[str]) -> dict[str, Any]:
        [prompt] = prompts
        return {name: value for name, value in tiny.arguments(int(prompt)).items() if name.endswith(TEXT)}

    return encode


def calibrated(name: str, **options: Any) -> Calibrated:
    tiny = TINY[name]
    pipe = tiny.build()
    call = {**tiny.call, "num_inference_steps": STEPS, "encode": encoder(tiny), "progress": False}
    small = {"fit_clips": 1, "held_out_clips": 2, "candidates": 2}
    return Calibrated(tiny, pipe, calibrate_pipeline(pipe, PROMPTS, **{**call, **small, **options}))


@pytest.fixture(scope="module", params=[pytest.param("latte", marks=pytest.mark.slow), "wan22"])
def made(request) -> Calibrated:
    return calibrated(request.param)


def test_the_curve_is_what_the_schedules_really_give(made):
    assert [len(point.computed_steps) for point in made.calibration.measured] == [4, 5, 6]
    held_out = [("11", 1), ("12", 2)]
    exact = [made.frames(*clip) for clip in held_out]
    with apply_adacache(made.pipe, calibration=made.calibration, max_steps_computed=5) as handle:
        found = [made.frames(*clip) for clip in held_out]
    point = made.calibration.measured[1]
    assert set(point.computed_steps) <= set(handle.trace.computed_steps)
    measured = [psnr(a, b) for a, b in zip(found, exact, strict=True)]
    assert point.psnr == pytest.approx(np.mean(measured), abs=1e-6)
    assert point.psnr_lowest == pytest.approx(min(measured), abs=1e-6)
    assert 5 < point.psnr_lowest <= point.psnr < 80


def test_afterwards_the_pipeline_is_what_it_was(made):
    plain = made.tiny.run(made.tiny.build(), steps=STEPS)
    assert torch.equal(made.tiny.run(made.pipe, steps=STEPS), plain)
    assert made.pipe._progress_bar_config == {"disable": True}  # as the tiny pipelines come


def test_targets_of_every_kind_from_a_file(made, tmp_path):
    file = tmp_path / "calibration.json"
    made.calibration.save(file)
    counts = []
    quality = made.calibration.measured[0].psnr
    for target in ({"speedup": 1.01}, {"max_steps_computed": 4}, {"min_psnr": quality}):
        with apply_adacache(made.pipe, calibration=file, **target) as handle:
            made.tiny.run(made.pipe, steps=STEPS)
        assert handle.trace.num_reused > 0
        counts.append(handle.trace.num_computed)
    assert counts[0] >= counts[1] == counts[2]


def test_what_does_not_fit_a_calibration_is_refused(made):
    other = TINY["ltx"].build()
    with pytest.raises(ValueError, match=r"made for the transformers \['(Latte|Wan)Transformer3DModel.*LTXVideo"):
        apply_adacache(other, calibration=made.calibration, speedup=1.5)
    with (
        apply_adacache(made.pipe, calibration=made.calibration, speedup=1.1),
        pytest.raises(ValueError, match="made for latents of shape .* make another one"),
    ):
        made.tiny.run(made.pipe, steps=STEPS, height=32)
    with (
        apply_adacache(made.pipe, calibration=made.calibration, speedup=1.1),
        pytest.raises(ValueError, match=r"made for guidance scale .*, not 2\.5; make another one"),
    ):
        made.tiny.run(made.pipe, steps=STEPS, guidance_scale=2.5)
    with pytest.raises(TypeError, match="speedup needs a calibration .*calibrate_pipeline"):
        apply_adacache(made.pipe, speedup=2.0)
    with pytest.raises(TypeError, match="a calibration needs a target"):
        apply_adacache(made.pipe, calibration=made.calibration)
    with pytest.raises(ValueError, match="speedup and min_psnr cannot be combined"):
        apply_adacache(made.pipe, calibration=made.calibration, speedup=2.0, min_psnr=20)
    with pytest.raises(ValueError, match="a config and a calibration or target cannot be combined"):
        apply_adacache(made.pipe, "fast30", calibration=made.calibration, speedup=2.0)
    with (
        apply_adacache(made.pipe, calibration=made.calibration, min_psnr=79.9),
        pytest.raises(ValueError, match=r"min_psnr 79\.9 dB cannot be promised"),
    ):
        made.tiny.run(made.pipe, steps=STEPS)


def test_the_guidance_of_a_second_model_is_compared_too_but_not_with_older_files(made):
    if made.tiny is not TINY["wan22"]:
        assert made.calibration.conditions["further_guidance"] is None
        return
    with (
        apply_adacache(made.pipe, calibration=made.calibration, max_steps_computed=4),
        pytest.raises(ValueError, match=r"made for further guidance {'guidance_scale_2': .*}, not {.*: 2\.5}; make"),
    ):
        made.tiny.run(made.pipe, steps=STEPS, guidance_scale_2=2.5)
    conditions = {key: value for key, value in made.calibration.conditions.items() if key != "further_guidance"}
    older = replace(made.calibration, conditions=conditions)
    with apply_adacache(made.pipe, calibration=older, max_steps_computed=4) as handle:
        made.tiny.run(made.pipe, steps=STEPS, guidance_scale_2=2.5)
    assert handle.trace.num_reused


def test_a_guider_tells_its_guidance():
    pipe = TINY["hunyuan_video15"].build()
    kind = type(pipe.guider).__name__
    assert DenoisingLoop(pipe).further_guidance == {"guider": [kind, pipe.guider.guidance_scale]}


def test_a_checkpoint_knows_the_weights_and_the_call_it_was_made_with(monkeypatch, tmp_path):
    tiny, pipe = TINY["latte"], TINY["latte"].build()
    monkeypatch.setattr(calibrating, "calibrate", lambda *arguments: arguments[-1])

    def made_with(**changes: Any) -> dict[str, str] | None:
        call = {**tiny.call, "num_inference_steps": STEPS, "encode": encoder(tiny), "progress": False, **changes}
        return calibrate_pipeline(pipe, PROMPTS, **{"checkpoint": tmp_path / "kept.json", **call})

    def other_negative(prompts: list[str]) -> dict[str, Any]:
        embeds = encoder(tiny)(prompts)
        return {**embeds, "negative_prompt_embeds": embeds["negative_prompt_embeds"] + 1}

    first = made_with()
    assert made_with() == first
    assert made_with(encode=other_negative)["call"] != first["call"]
    assert made_with(guidance_scale=3.0)["call"] != first["call"]
    assert made_with(checkpoint=None) is None
    randomize(pipe.transformer, seed=9)
    assert made_with()["weights"] != first["weights"]
    assert made_with()["call"] == first["call"]
    assert calibrating._digest({"image": IMAGE}) != calibrating._digest({"image": IMAGE.point(lambda value: value + 1)})


def test_other_times_and_another_scheduler_are_warned_of(made, caplog):
    pipe = made.tiny.build()
    with apply_adacache(pipe, calibration=made.calibration, max_steps_computed=4):
        made.tiny.run(pipe, steps=STEPS)
        assert not [message for message in caplog.messages if "calibration" in message]
        if made.tiny is TINY["latte"]:
            pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
            made.tiny.run(pipe, steps=STEPS)
            assert "was made with DDIMScheduler, and this run's scheduler is DDPMScheduler" in caplog.text
            assert "at other times than this run's" in caplog.text


def test_a_pipeline_that_shares_the_transformer_does_not_tell_its_guidance():
    tiny, pipe = TINY["wan"], TINY["wan"].build()
    other = diffusers.WanVideoToVideoPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    made = calibrated("wan")
    tiny.run(pipe, steps=STEPS)  # its own guidance scale stays with it
    with (
        apply_adacache(pipe, calibration=made.calibration, speedup=1.1),
        pytest.raises(ValueError, match="does not say its own; apply_adacache to the pipeline that is called"),
    ):
        OTHERS["wan_video"].run(other, steps=STEPS, guidance_scale=2.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_inference_steps": 4}, "4 steps is too short to be calibrated"),
        ({"fit_clips": 0}, "fit_clips must be"),
        ({"aim": "perfection"}, "aim 'perfection' is unknown"),
        ({"output_type": "pil"}, "sets output_type itself"),
        ({"checkpoint": "nowhere/kept.json"}, "nowhere/kept.json cannot be written as a checkpoint"),
        ({"checkpoint": "."}, "cannot be written as a checkpoint"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        calibrated("latte", **options)


def test_a_single_prompt_is_refused():
    with pytest.raises(ValueError, match="at least two different prompts"):
        calibrate_pipeline(TINY["latte"].build(), ["10"])
    with pytest.raises(ValueError, match="prompts must be a list of prompts, got the text 'a panda'"):
        calibrate_pipeline(TINY["latte"].build(), "a panda")


def test_a_hooked_pipeline_and_a_wavering_scheduler_are_refused():
    tiny = TINY["latte"]
    pipe = tiny.build()
    with apply_adacache(pipe, "fast30"):
        with pytest.raises(ValueError, match="AdaCache is applied to this LatteTransformer3DModel already"):
            calibrate_pipeline(pipe, PROMPTS)
        tiny.run(pipe)
    pipe.scheduler = Backwards()
    with pytest.raises(ValueError, match="timesteps of Backwards go back and forth"):
        calibrate_pipeline(pipe, PROMPTS, encode=encoder(tiny), num_inference_steps=STEPS, **tiny.call)


@pytest.mark.parametrize(
    "scheduler",
    [partial(diffusers.DDIMScheduler, timestep_spacing="linspace"), diffusers.PNDMScheduler],
    ids=["other times", "another number of times"],
)
def test_a_schedule_that_more_steps_do_not_refine_has_no_solution_to_come_near(scheduler):
    tiny = TINY["latte"]
    pipe = tiny.build()
    pipe.scheduler = scheduler()
    with pytest.raises(ValueError, match="steps do not include those of .*, .* no exact solution .* use aim='repeat'"):
        calibrate_pipeline(pipe, PROMPTS, aim="solution", encode=encoder(tiny), num_inference_steps=8, **tiny.call)


@pytest.mark.parametrize("scheduler", [diffusers.PNDMScheduler, diffusers.HeunDiscreteScheduler])
def test_a_scheduler_that_comes_to_a_time_twice_is_calibrated(scheduler, monkeypatch):
    monkeypatch.setattr(plan, "MEASURED", (0.35,))
    tiny = TINY["latte"]
    pipe = tiny.build()
    pipe.scheduler = scheduler()
    call = {**tiny.call, "num_inference_steps": STEPS, "encode": encoder(tiny), "progress": False}
    calibration = calibrate_pipeline(pipe, PROMPTS, fit_clips=1, held_out_clips=2, candidates=2, **call)
    with apply_adacache(pipe, calibration=calibration, max_steps_computed=6) as handle:
        tiny.run(pipe, steps=STEPS)
        trace = handle.trace
    assert trace.num_steps > STEPS  # calls
    assert trace.num_computed <= 6


def test_a_video_in_sections_is_calibrated_by_one_of_them():
    with pytest.raises(ValueError, match="ask for one section"):
        calibrated("framepack", image=IMAGE, num_frames=17)
    tiny = TINY["framepack"]
    pipe = tiny.build()
    call = {**tiny.call, "image": IMAGE, "num_inference_steps": STEPS}
    with PipelineClips(pipe, encoder(tiny), call).hooked() as clips:
        latents = clips.latents([plan.Clip("10", 10)], None)
    assert torch.equal(latents, tiny.run(pipe, seed=10, steps=STEPS))


def test_a_model_with_sound_is_refused():
    with pytest.raises(ValueError, match="fitted to the picture alone, but LTX-2 can denoise a sound with it"):
        calibrate_pipeline(TINY["ltx2"].build(), PROMPTS)


@pytest.mark.parametrize("name", ["wan", "ltx", "sana_wm"])
def test_a_clip_is_one_video_whatever_shape_a_pipeline_gives_it(name):
    tiny = {**TINY, **OTHERS}[name]
    call = tiny.arguments(steps=2)
    with PipelineClips(tiny.build(), lambda prompts: {}, call).hooked() as sampler:
        [video] = sampler.frames([plan.Clip("a panda", 1)], None)
    assert video.ndim == 4 and video.shape[-1] == 3 and video.dtype == np.uint8


def test_prompts_are_given_one_by_one_where_a_pipeline_takes_no_list():
    one = calibrating._encoder_of(OTHERS["sana_wm"].build())
    assert one(["a panda"]) == {"prompt": "a panda"}
    with pytest.raises(ValueError, match="SanaWMPipeline samples one prompt at a time; use batch_size=1"):
        one(["a panda", "a tiger"])
    assert calibrating._encoder_of(TINY["wan"].build())(["a panda"]) == {"prompt": ["a panda"]}


def test_a_modular_pipeline_is_refused_before_it_is_called():
    pipe = WanDenoiseStep().init_pipeline()
    with pytest.raises(ValueError, match="is modular, .*; calibrate the pipeline that has the same transformer"):
        calibrate_pipeline(pipe, PROMPTS)


def test_what_is_finished_outlives_a_result_that_could_not_be_saved(monkeypatch, tmp_path, caplog):
    checkpoint, calls, forward = tmp_path / "kept.json", [], diffusers.WanTransformer3DModel.forward

    @wraps(forward)
    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return forward(*arguments, **options)

    monkeypatch.setattr(diffusers.WanTransformer3DModel, "forward", counted)
    small = {"checkpoint": checkpoint, "held_out_clips": 1, "candidates": 1}
    first = calibrated("wan", **small).calibration
    with pytest.raises(FileNotFoundError, match="nowhere'$"):
        first.save(tmp_path / "nowhere" / "wan.json")
    num_calls = len(calls)
    again = calibrated("wan", **small).calibration
    assert replace(again, reused_cost=0) == replace(first, reused_cost=0)
    assert len(calls) - num_calls < 0.2 * num_calls  # only the held-out clip that the others are compared with
    assert "begins anew" not in caplog.text


def test_an_offloaded_pipeline_gives_the_device_back_after_a_run_that_is_stopped(monkeypatch):
    """Or the text encoder of the next run would find the transformer there."""
    pipe, freed = TINY["wan"].build(), []
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda pipe: freed.append(pipe))
    with PipelineClips(pipe, lambda prompts: {}, TINY["wan"].arguments(steps=STEPS)).hooked() as sampler:
        sampler.peek(plan.Clip("a panda", 1))
    assert freed == [pipe]
