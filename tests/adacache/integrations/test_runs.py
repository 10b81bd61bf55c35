"""Which run, step, guidance half and video a call of the transformer belongs to."""

from __future__ import annotations

import copy
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.guiders import LTX2Guidance
from diffusers.modular_pipelines.ltx2.denoise import LTX2DenoiseStep
from diffusers.modular_pipelines.wan.denoise import Wan22DenoiseStep, Wan22VaceDenoiseStep, WanDenoiseStep
from torch import Tensor

from adacache import AdaCacheConfig, StepController
from adacache.conformance.tiny import OTHERS, TEXT_TOKENS, TEXT_WIDTH, TINY
from adacache.conformance.tiny_pipeline import SMALL, noise, randomize
from adacache.integrations.diffusers import apply, apply_adacache
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.trace import Trace

WAN = TINY["wan"]
STEPS = 8
SOME = StaticScheduleConfig((0, 1, 4, STEPS - 1))
# Everything that may be reused is.
EAGER = AdaCacheConfig(codebook={"thresholds": [1e9], "rates": [3, 1]}, metric_blocks=(1,))


TEXTS = [noise(seed, 1, TEXT_TOKENS, TEXT_WIDTH) for seed in (1, 2, 3)]


@pytest.fixture
def told(caplog) -> Callable[[], list[str]]:
    """Warnings of AdaCache so far but those about how much was reused."""
    caplog.set_level(logging.INFO)
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
        and record.name.startswith("adacache")
        and not any(words in record.getMessage() for words in ("was reused", "was tuned for", "fewer steps"))
    ]


def times_of(transformer: Any) -> list[float]:
    """Filled with the time of every call."""
    times: list[float] = []
    transformer.register_forward_pre_hook(
        lambda module, args, kwargs: times.append(float(kwargs["timestep"].max())), with_kwargs=True
    )
    return times


def flow(steps: int = STEPS, kind: Any = diffusers.FlowMatchEulerDiscreteScheduler, **options: Any) -> Any:
    scheduler = kind(**{"shift": 3.0, **options})
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def denoise(
    transformer: Any,
    scheduler: Any,
    halves: Callable[[int], Iterable[Tensor]] = lambda step: TEXTS[:2],
    dtype: torch.dtype = torch.float32,
    names: tuple[str, ...] = (),
    seed: int = 0,
) -> Tensor:
    """A loop around Wan's transformer that calls it for the texts of each step; their mean is the prediction."""
    latents = noise(seed, 1, 4, 3, 8, 8)
    for step, time in enumerate(scheduler.timesteps):
        found = []
        for number, text in enumerate(halves(step)):
            with transformer.cache_context(names[number]) if names else nullcontext():
                found.append(
                    transformer(
                        hidden_states=latents.expand(len(text), *latents.shape[1:]),
                        timestep=time.expand(len(text)).to(dtype),
                        encoder_hidden_states=text,
                        return_dict=False,
                    )[0].mean(0, keepdim=True)
                )
        latents = scheduler.step(sum(found) / len(found), time, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("name", ["cogvideox_video", "wan_video"])
@pytest.mark.parametrize(("strength", "taken"), [(0.5, 8), (0.13, 2)])
def test_with_strength_a_run_has_the_steps_that_are_taken(name, strength, taken, caplog, told):
    tiny = OTHERS[name]
    pipe = tiny.build()
    times = times_of(pipe.transformer)
    with apply_adacache(pipe, EAGER) as handle:
        tiny.run(pipe, steps=16, strength=strength)
    trace = handle.trace
    assert [record.timestep for record in trace.records] == times[:: tiny.calls_per_step]
    assert trace.num_steps == len(trace.records) == taken
    assert {0, taken - 2, taken - 1} <= set(trace.computed_steps)
    assert trace.num_reused or taken == 2
    assert f"of {taken} steps computed" in caplog.text
    assert not told()


def test_a_codebook_for_another_number_of_steps_is_pointed_out(caplog):
    pipe = WAN.build()
    with apply_adacache(pipe, AdaCacheConfig("fast30", metric_blocks=(1,))):
        WAN.run(pipe, steps=4)
    assert caplog.text.count("tuned for 30 sampling steps, but this run has 4") == 1


def test_a_solver_that_comes_to_times_twice_may_begin_in_the_middle():
    tiny = OTHERS["wan_video"]
    pipe = tiny.build()
    pipe.scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
    times = times_of(pipe.transformer)
    with apply_adacache(pipe, EAGER) as handle:
        tiny.run(pipe, steps=10, strength=0.6)
    assert [record.timestep for record in handle.trace.records] == times[::2]
    assert handle.trace.num_steps == len(times) // 2 == 2 * len(set(times)) - 1


@pytest.mark.parametrize("names", [(), ("cond", "uncond")])
def test_second_order_solvers_take_each_call_at_a_repeated_time_for_a_step(names, told):
    transformer = WAN.build().transformer
    times = times_of(transformer)
    scheduler = flow(kind=diffusers.FlowMatchHeunDiscreteScheduler)
    plain = denoise(transformer, scheduler, names=names)
    count = len(times) // 2
    assert count == 2 * STEPS - 1
    with apply_adacache(transformer, StaticScheduleConfig(tuple(range(count))), scheduler=scheduler) as handle:
        scheduler.set_timesteps(STEPS)
        assert torch.equal(denoise(transformer, scheduler, names=names), plain)
    assert [record.timestep for record in handle.trace.records] == times[::2][:count]
    assert not told()


@pytest.mark.parametrize("num_halves", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_run_ends_with_its_last_call(steps, num_halves, caplog):
    """Also in a loop that tells nobody of its end; with one step nothing says that no other half follows."""
    caplog.set_level(logging.INFO)
    transformer = WAN.build().transformer
    scheduler = flow(steps)
    handle = apply_adacache(transformer, StaticScheduleConfig((0,)), scheduler=scheduler)
    denoise(transformer, scheduler, lambda step: TEXTS[:num_halves])
    assert handle.trace.num_steps == len(handle.trace.records) == steps
    assert (f"of {steps} steps computed" in caplog.text) == (steps > 1)


def test_times_that_were_rounded_into_one_are_told_apart(told):
    """bfloat16 has fewer numbers than a fine schedule has times."""
    transformer = WAN.build().transformer
    scheduler = flow(20, shift=30.0)
    assert len(set(scheduler.timesteps.bfloat16().tolist())) < 20
    plain = denoise(transformer, scheduler, dtype=torch.bfloat16)
    scheduler.set_timesteps(20)
    with apply_adacache(transformer, StaticScheduleConfig(tuple(range(20))), scheduler=scheduler) as handle:
        assert torch.equal(denoise(transformer, scheduler, dtype=torch.bfloat16), plain)
    assert [record.timestep for record in handle.trace.records] == scheduler.timesteps.tolist()
    assert not told()


def switched(first: list[Tensor], later: list[Tensor], at: int = 3) -> Callable[[int], list[Tensor]]:
    return lambda step: first if step < at else later


CHANGES = {
    "guidance is switched off": switched(TEXTS[:2], TEXTS[:1]),
    "the half that is left is the other one": switched(TEXTS[:2], TEXTS[1:2]),
    "guidance is switched on": switched(TEXTS[:1], TEXTS[:2]),
    "a batch loses its half": switched([torch.cat(TEXTS[:2])], TEXTS[1:2]),
    "another prompt": switched(TEXTS[:2], [TEXTS[2], TEXTS[1]]),
    "another order": switched(TEXTS[:2], TEXTS[1::-1]),
    "guidance is left out for a while": lambda step: TEXTS[:1] if step in (3, 4) else TEXTS[:2],
    "a third half with a text that was there": lambda step: [*TEXTS[:2], TEXTS[0]],
    "a half that joins at the end": switched(TEXTS[:1], TEXTS[:2], STEPS - 1),
}


def test_times_fall_to_the_clean_video_also_where_the_scheduler_inverts_them():
    transformer, scheduler = WAN.build().transformer, flow(invert_sigmas=True)
    with apply_adacache(transformer, {"policy": "seacache", "threshold": 1e6}, scheduler=scheduler) as handle:
        denoise(transformer, scheduler)
    times = [record.timestep for record in handle.trace.records]
    assert times == [1000 - time for time in scheduler.timesteps.tolist()]
    assert times == sorted(times, reverse=True) and times[0] == 1000
    assert handle.trace.computed_steps == [0, 3, 6, STEPS - 1]


@pytest.mark.parametrize("halves", CHANGES.values(), ids=CHANGES)
def test_halves_may_change_in_the_middle_of_a_run(halves):
    """A run that computes every step is the plain one, bit for bit; others end, and come near it."""
    transformer = WAN.build().transformer
    scheduler = flow()
    plain = denoise(transformer, scheduler, halves)

    def cached(config: Any) -> tuple[Tensor, Trace]:
        with apply_adacache(transformer, config, scheduler=scheduler) as handle:
            scheduler.set_timesteps(STEPS)
            return denoise(transformer, scheduler, halves), handle.trace

    every_step, _ = cached(StaticScheduleConfig(tuple(range(STEPS))))
    assert torch.equal(every_step, plain)
    for config in (SOME, {"policy": "easycache", "threshold": 1e6, "warmup": 2}, EAGER):
        result, trace = cached(config)
        assert len(trace.records) == STEPS and trace.num_reused
        assert 0 < (result - plain).norm() < plain.norm()


def test_halves_are_known_by_what_their_texts_hold():
    """Loops may make the same text anew in every step."""
    transformer, scheduler = WAN.build().transformer, flow()
    with apply_adacache(transformer, SOME, scheduler=scheduler) as handle:
        want = denoise(transformer, scheduler)
        scheduler.set_timesteps(STEPS)
        assert torch.equal(denoise(transformer, scheduler, lambda step: [text.clone() for text in TEXTS[:2]]), want)
    assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]


def test_a_callback_switches_guidance_off():
    def switch_off(pipe: Any, step: int, time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.0 if step == 2 else pipe._guidance_scale
        return tensors

    pipe = WAN.build()
    plain = WAN.run(pipe, steps=STEPS, callback_on_step_end=switch_off)
    with apply_adacache(pipe, StaticScheduleConfig(tuple(range(STEPS)))) as handle:
        assert torch.equal(WAN.run(pipe, steps=STEPS, callback_on_step_end=switch_off), plain)
    assert len(handle.trace.records) == STEPS


def test_a_run_that_a_callback_interrupts_leaves_nothing_to_the_next(told):
    def interrupt(pipe: Any, step: int, time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 2
        return tensors

    pipe = WAN.build()
    with apply_adacache(pipe, SOME) as handle:
        want = WAN.run(pipe, steps=STEPS)
        WAN.run(pipe, seed=5, steps=STEPS, callback_on_step_end=interrupt)
        assert len(handle.trace.records) == 3
        assert torch.equal(WAN.run(pipe, steps=STEPS), want)
    assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]
    assert not told()


def test_a_run_that_broke_off_lets_go_of_what_it_holds(monkeypatch):
    """At once where the transformer failed; AdaCache is not told of other errors, and the handle can be reset."""
    made = []
    monkeypatch.setattr(apply, "StepController", lambda config: made.append(StepController(config)) or made[-1])
    pipe = WAN.build()
    with apply_adacache(pipe, SOME) as handle:
        with pytest.raises(ZeroDivisionError):
            WAN.run(pipe, steps=STEPS, callback_on_step_end=lambda *_: 1 / 0)
        assert made[0].nbytes
        handle.reset()
        assert not made[0].nbytes
        last_block, counted = pipe.transformer.blocks[-1], iter([1, 1, 1, 0])
        last_block.register_forward_hook(lambda *_: (1 // next(counted), None)[1])
        with pytest.raises(ZeroDivisionError):
            WAN.run(pipe, steps=STEPS)
        assert len(made) == 2 and not made[1].nbytes


def test_videos_in_lockstep_that_share_a_text_do_not_share_residuals():
    """Two windows of a long video, say: only from the second step on it is known that a step has two calls."""
    transformer = WAN.build().transformer

    @torch.no_grad()
    def first_window(other: int) -> Tensor:
        scheduler = flow(12)
        with apply_adacache(transformer, StaticScheduleConfig((0, 1, 11)), scheduler=scheduler):
            outputs = [
                transformer(noise(seed, 1, 4, 3, 8, 8), time[None], encoder_hidden_states=TEXTS[0], return_dict=False)
                for time in scheduler.timesteps[:4]
                for seed in (10, other)
            ]
        return torch.stack([output for (output,) in outputs[::2]])

    assert torch.equal(first_window(11), first_window(99))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_text_that_changes_in_the_middle_has_its_next_step_computed(in_place):
    def turn(pipe: Any, step: int, time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            text = tensors["prompt_embeds"]
            tensors["prompt_embeds"] = text.mul_(-1) if in_place else -text
        return tensors

    pipe = WAN.build()
    with apply_adacache(pipe, StaticScheduleConfig((0, 1, STEPS - 1))) as handle:
        WAN.run(
            pipe,
            steps=STEPS,
            callback_on_step_end=turn,
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
        )
    assert handle.trace.computed_steps == [0, 1, 3, STEPS - 1]


def test_a_handle_that_is_kept_for_its_trace_keeps_no_model():
    pipe = WAN.build()
    handle = apply_adacache(pipe, EAGER)
    WAN.run(pipe, steps=STEPS)
    transformer = weakref.ref(pipe.transformer)
    handle.remove()
    del pipe
    gc.collect()
    assert transformer() is None and handle.trace.num_reused


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_gradients_are_those_without_a_cache_and_checkpointing_is_refused(is_checkpointed):
    transformer, scheduler = WAN.build().transformer.requires_grad_(True), flow()
    if is_checkpointed:
        transformer.enable_gradient_checkpointing()

    def gradients() -> list[Tensor | None]:
        transformer.zero_grad()
        latents = noise(0, 1, 4, 3, 8, 8)
        time = scheduler.timesteps[:1]
        transformer(latents, time, encoder_hidden_states=TEXTS[0], return_dict=False)[0].sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in transformer.parameters()]

    plain = gradients()
    with apply_adacache(transformer, SOME, scheduler=scheduler):
        if is_checkpointed:
            with pytest.raises(ValueError, match=r"gradient checkpointing.*disable_gradient_checkpointing"):
                gradients()
        else:
            pairs = zip(gradients(), plain, strict=True)
            assert all(one is other or torch.allclose(one, other) for one, other in pairs)


def test_a_held_output_is_returned_in_the_form_that_is_asked_for():
    transformer, scheduler = WAN.build().transformer, flow(3)
    config = MultistepConfig((0, 2), num_sampling_steps=3, coefficients=[[[1.0]]] * 2)
    outputs = []
    with apply_adacache(transformer, config, scheduler=scheduler), torch.no_grad():
        for form in ({}, {"return_dict": True}, {"return_dict": False}):
            scheduler.set_timesteps(3)
            for time in scheduler.timesteps:
                outputs.append(transformer(noise(0, 1, 4, 3, 8, 8), time[None], encoder_hidden_states=TEXTS[0], **form))
    samples = [output[0] if isinstance(output, tuple) else output.sample for output in outputs]
    assert [isinstance(output, tuple) for output in outputs] == [False] * 6 + [True] * 3
    assert all(torch.equal(samples[first + 1], samples[first]) for first in (0, 3, 6))


def test_a_loop_that_begins_again_without_setting_its_scheduler():
    transformer = WAN.build().transformer
    scheduler = flow()
    with apply_adacache(transformer, SOME, scheduler=scheduler) as handle:
        want = denoise(transformer, scheduler)
        for broken_off in (1, 4):
            scheduler._step_index = None
            with pytest.raises(KeyError):
                denoise(
                    transformer, scheduler, lambda step, last=broken_off: TEXTS[:2] if step < last else {}[0], seed=5
                )
            scheduler._step_index = None
            assert torch.equal(denoise(transformer, scheduler), want)
    assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler, STEPS),
        (diffusers.FlowMatchEulerDiscreteScheduler, 5),
        (diffusers.UniPCMultistepScheduler, STEPS),
    ],
)
def test_a_second_pipeline_around_the_transformer_is_computed(kind, steps, told):
    first = WAN.build()
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if "UniPC" in kind.__name__ else {}
    second = diffusers.WanPipeline(None, None, first.vae, kind(**options), first.transformer)
    second.set_progress_bar_config(disable=True)
    plain = WAN.run(second, steps=steps)
    with apply_adacache(first, SOME) as handle:
        want = WAN.run(first, steps=STEPS)
        assert torch.equal(WAN.run(second, steps=steps), plain)
        assert torch.equal(WAN.run(first, steps=STEPS), want)
        assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]
    [sentence] = told()
    assert "the FlowMatchEulerDiscreteScheduler that AdaCache follows has no step due" in sentence
    assert "Apply AdaCache to the pipeline" in sentence


def test_times_that_the_scheduler_does_not_have_are_computed(told):
    """A solver of one's own that looks halfway between two of them."""
    transformer = WAN.build().transformer
    scheduler = flow()
    midpoints = SimpleNamespace(
        timesteps=(scheduler.timesteps[:-1, None] * torch.tensor([1.0, 0.9])).flatten(),
        step=lambda output, time, latents, return_dict: (latents - 0.1 * output,),
    )
    plain = denoise(transformer, midpoints)
    with apply_adacache(transformer, SOME, scheduler=scheduler):
        assert torch.equal(denoise(transformer, midpoints), plain)
    assert len(told()) == 1


@pytest.mark.parametrize("name", ["wan", "latte"])
def test_two_prompts_with_one_seed_are_two_videos(name):
    tiny = TINY[name]
    pipe = tiny.build()
    pipe_call = {"generator": [torch.Generator().manual_seed(7)]}
    with apply_adacache(pipe, EAGER) as handle:
        alone = []
        for prompt in range(2):
            pipe_call["generator"][0].manual_seed(7)
            alone.append(pipe(**{**tiny.arguments(seed=prompt, steps=STEPS), **pipe_call}).frames[0])
        generators = [torch.Generator().manual_seed(7) for _ in range(2)]
        both = pipe(**{**tiny.arguments(steps=STEPS, batch=2), "generator": generators}).frames
        assert len(handle.traces) == 2
    for video, single in zip(both, alone, strict=True):
        assert (video - single).norm() < 1e-4 * single.norm()


@pytest.mark.parametrize(("context", "videos", "warnings"), [(None, 1, 1), ("cond_uncond", 2, 0), ("cond", 4, 0)])
def test_a_loop_of_ones_own_names_what_is_in_its_batch(context, videos, warnings, told):
    transformer = WAN.build().transformer
    scheduler = flow()
    batch = torch.cat([*TEXTS, TEXTS[0]])
    with apply_adacache(transformer, SOME, scheduler=scheduler) as handle:
        denoise(transformer, scheduler, lambda step: [batch], names=(context,) if context else ())
    assert len(handle.traces) == videos
    assert len(told()) == warnings


def modular_wan(
    denoising: Any, guiders: Mapping[str, Any], transformers: Mapping[str, Any], **inputs: Any
) -> Callable[[int], Tensor]:
    """The denoising of modular Wan, in so many steps."""
    pipe = denoising().init_pipeline()
    pipe.update_components(**transformers, scheduler=flow(), **guiders)
    pipe.set_progress_bar_config(disable=True)

    def run(steps: int) -> Tensor:
        pipe.scheduler.set_timesteps(steps)
        return pipe(
            latents=noise(0, 1, 4, 3, 8, 8),
            timesteps=pipe.scheduler.timesteps,
            num_inference_steps=steps,
            prompt_embeds=TEXTS[0],
            negative_prompt_embeds=TEXTS[1],
            dtype=torch.float32,
            output="latents",
            **inputs,
        )

    run.pipe = pipe
    return run


GUIDERS = {
    "always": {},
    "from the fourth step on": {"start": 0.4},
    "in the first steps only": {"stop": 0.5},
}


@pytest.mark.parametrize("interval", GUIDERS.values(), ids=GUIDERS)
def test_modular_pipelines_with_a_guider(interval, told):
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0, **interval)
    run = modular_wan(WanDenoiseStep, {"guider": guider}, {"transformer": WAN.build().transformer})
    plain = run(STEPS)
    with apply_adacache(run.pipe, StaticScheduleConfig(tuple(range(STEPS)))) as handle:
        assert torch.equal(run(STEPS), plain)
    with apply_adacache(run.pipe, SOME) as handle:
        result = run(STEPS)
    assert handle.trace.num_steps == len(handle.trace.records) == STEPS
    assert handle.trace.num_reused
    assert 0 < (result - plain).norm() < plain.norm()
    assert not told()


@pytest.mark.parametrize(
    ("denoising", "name", "inputs"),
    [
        (Wan22DenoiseStep, "wan", {}),
        (
            Wan22VaceDenoiseStep,
            "wan_vace",
            {"denoiser_input_fields": {"control_hidden_states": noise(3, 1, 72, 3, 8, 8)}},
        ),
    ],
)
def test_modular_wan22_starts_anew_with_its_second_transformer(denoising, name, inputs, told):
    guiders = {part: diffusers.ClassifierFreeGuidance(guidance_scale=4.0) for part in ("guider", "guider_2")}
    transformers = {"transformer": TINY[name].build().transformer}
    transformers["transformer_2"] = randomize(copy.deepcopy(transformers["transformer"]), seed=1)
    run = modular_wan(denoising, guiders, transformers, **inputs)
    plain = run(STEPS)
    with apply_adacache(run.pipe, StaticScheduleConfig(tuple(range(STEPS)))):
        assert torch.equal(run(STEPS), plain)
    with apply_adacache(run.pipe, StaticScheduleConfig((0, 1))) as handle:
        assert not torch.equal(run(STEPS), plain)
    boundary = 1000 * run.pipe.config.boundary_ratio
    switch = next(record.index for record in handle.trace.records if record.timestep < boundary)
    assert handle.trace.computed_steps == [0, 1, switch]
    assert not told()


def test_modular_ltx2_with_four_calls_a_step(told):
    """Two of them for guidance by parts of the model, one without looks between picture and sound."""
    scales = {"guidance_scale": 3.0, "stg_scale": 1.0, "modality_scale": 3.0, "spatio_temporal_guidance_blocks": [1]}
    pipe, transformer = LTX2DenoiseStep().init_pipeline(), TINY["ltx2"].build().transformer
    pipe.update_components(
        transformer=transformer, scheduler=flow(), guider=LTX2Guidance(**scales), audio_guider=LTX2Guidance(**scales)
    )
    coords = {
        "video_coords": transformer.rope.prepare_video_coords(1, 5, 4, 4, "cpu", fps=24),
        "audio_coords": transformer.audio_rope.prepare_audio_coords(1, 6, "cpu"),
    }
    text = {
        f"{half}connector_{kind}": torch.ones(1, 6) if kind == "attention_mask" else noise(len(half + kind), 1, 6, 16)
        for half in ("", "negative_")
        for kind in ("prompt_embeds", "audio_prompt_embeds", "attention_mask")
    }

    def run() -> Tensor:
        pipe.scheduler.set_timesteps(STEPS)
        return pipe(
            latents=noise(0, 1, 5 * 16, 4),
            audio_latents=noise(1, 1, 6, 4),
            audio_scheduler=copy.deepcopy(pipe.scheduler),
            timesteps=pipe.scheduler.timesteps,
            num_inference_steps=STEPS,
            **SMALL,
            dtype=torch.float32,
            denoiser_input_fields={"audio_num_frames": 6, **coords},
            output="latents",
            **text,
        )

    plain = run()
    with apply_adacache(pipe, StaticScheduleConfig(tuple(range(STEPS)))):
        assert torch.equal(run(), plain)
    with apply_adacache(pipe, SOME) as handle:
        result = run()
    assert handle.trace.num_steps == STEPS and handle.trace.num_reused
    assert 0 < (result - plain).norm() < plain.norm()
    assert not told()


def test_two_schedulers_with_equal_times_are_two_runs():
    """A copy of the scheduler has the same times, and what is reused in its run is of its own."""
    pipe = WAN.build()
    with apply_adacache(pipe, SOME) as handle:
        want = WAN.run(pipe, steps=STEPS)
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        assert torch.equal(WAN.run(pipe, steps=STEPS), want)
        assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]


def test_the_second_of_two_threads_is_computed_without_the_cache(caplog):
    pipe = WAN.build()
    second = diffusers.WanPipeline(None, None, pipe.vae, copy.deepcopy(pipe.scheduler), pipe.transformer)
    second.set_progress_bar_config(disable=True)
    plain = WAN.run(second, seed=1, steps=STEPS)
    with apply_adacache(pipe, SOME):
        want = WAN.run(pipe, steps=STEPS)
    results = {}

    def run_second(*_: Any) -> dict[str, Any]:
        """In the middle of the first one's run, from its callback."""
        if not results:
            thread = threading.Thread(target=lambda: results.update(second=WAN.run(second, seed=1, steps=STEPS)))
            thread.start()
            thread.join()
        return {}

    with apply_adacache(pipe, SOME) as handle:
        first = WAN.run(pipe, steps=STEPS, callback_on_step_end=run_second)
        assert handle.trace.computed_steps == [0, 1, 4, STEPS - 1]
    assert torch.equal(first, want) and torch.equal(results["second"], plain)
    [sentence] = [record.message for record in caplog.records if "thread" in record.message]
    assert "Give each thread its own transformer" in sentence
