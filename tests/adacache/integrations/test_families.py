"""What the cache does to pipelines of every family of diffusers, on tiny random models."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import diffusers
import pytest
import torch

from adacache import AdaCacheConfig
from adacache.conformance.cache import OURS
from adacache.conformance.properties import check
from adacache.conformance.tiny import OTHERS, TINY, TinyPipeline
from adacache.conformance.tiny_pipeline import VIDEO
from adacache.conformance.trial import ROUNDING, Trial, difference, reused_by_hand
from adacache.integrations.diffusers import apply_adacache
from adacache.integrations.diffusers.families import find_family
from adacache.integrations.diffusers.family import from_tokens, tokens_of
from adacache.integrations.diffusers.pipeline import transformers_of
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig

STEPS = 6
FEW = 5  # the fewest of which a codebook leaves one out
SCHEDULE = (0, 1, 3, 5)
# What makes these pipelines sample a video in two sections.
SECTIONS = {
    "framepack": {"num_frames": 17},
    "helios": {"num_frames": 17},
    "wan_animate": {"pose_video": [*VIDEO, *VIDEO[1:]], "face_video": [*VIDEO, *VIDEO[1:]]},
}


@pytest.fixture(params=list(TINY))
def tiny(request) -> TinyPipeline:
    return TINY[request.param]


@pytest.fixture
def pipe(tiny) -> Any:
    return tiny.build()


CODEBOOK, STATIC, EASYCACHE, SEACACHE, TAYLORSEER = OURS


# The first three depend on a family's data; the rest on how calls are found and hooked, which is the same for all.
PROPERTIES = ("exact", "residual", "alone", "removed", "halves", "aborted", "counts")
KINDS = ("latte", "wan22", "ltx2")  # halves in one call, in two calls of two transformers, and with a sound
# Others have a row for each video as one of these or of KINDS has.
ALONE = ("mochi", "sana_video", "cogvideox", "framepack", "cosmos")
# Other pipelines that are quickly measured: with more channels, or more tokens.
MEASURED = ("wan_image", "cogvideox_image", "cogvideox_control", "sana_wm")


def of_families() -> Iterator[Any]:
    """Families and names of properties; those that a family shares with others are a slow test for it."""
    for family in TINY:
        quick = PROPERTIES if family in KINDS else PROPERTIES[: 3 if family in ALONE else 2]
        yield pytest.param(family, quick, id=family)
        if quick != PROPERTIES:
            yield pytest.param(family, PROPERTIES[len(quick) :], id=f"{family}-rest", marks=pytest.mark.slow)


@pytest.mark.parametrize(("family", "names"), list(of_families()))
def test_a_codebook_has_the_properties_of_a_cache(family, names):
    """Its decisions differ from video to video, and what it reuses is one residual."""
    trial = Trial(CODEBOOK, TINY[family], STEPS if family == "wan22" else FEW)
    for name in names:
        verdict = check(name, trial)
        assert verdict.outcome == "pass" or "no two halves" in verdict.reason, (name, verdict)
        assert not verdict.evidence.get("new attributes")
        assert verdict.evidence.get("decisions") != "equal"


def test_holding_outputs_is_what_it_is_by_hand_and_needs_no_call(pipe, tiny, monkeypatch):
    models, outputs, calls, embedded = transformers_of(pipe), {}, [], []
    for model in models:
        next(model.children()).register_forward_hook(lambda *_: embedded.append(1))

    def held(model: torch.nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        step, half = divmod(len(calls), tiny.calls_per_step)
        computed = step in SCHEDULE or (model, half) not in outputs
        calls.append(computed)
        if computed:
            outputs[model, half] = forward(*args, **kwargs)
        return outputs[model, half]

    with monkeypatch.context() as patch:
        for model in models:
            patch.setattr(model, "forward", partial(held, model, model.forward))
        by_hand = tiny.run(pipe, steps=STEPS)
    in_calls = len(embedded)
    embedded.clear()
    coefficients = (((1.0,), (1.0,)),) * len(SCHEDULE)
    with apply_adacache(pipe, MultistepConfig(SCHEDULE, num_sampling_steps=STEPS, coefficients=coefficients)) as handle:
        assert torch.equal(tiny.run(pipe, steps=STEPS), by_hand)
    assert handle.trace.computed_steps == [step for step in range(STEPS) if calls[step * tiny.calls_per_step]]
    assert len(embedded) in (in_calls, 2 * in_calls)  # the transformer's own forward runs once or twice


def test_policies_that_go_by_latents_or_outputs_reuse_steps(pipe, tiny):
    """Or are refused: SeaCache filters over height and width, which a row of tokens or a sound does not have."""
    shapes = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append([*args, kwargs.get("hidden_states")][0].shape), with_kwargs=True
    )
    plain = tiny.run(pipe, steps=STEPS)
    hook.remove()
    has_no_height = len(shapes[0]) == 3 or find_family(pipe.transformer).audio
    for cache in (EASYCACHE, SEACACHE):
        handle = cache.apply(pipe, "some", STEPS)
        if cache is SEACACHE and has_no_height:
            with pytest.raises(ValueError, match="SeaCache filters latents over frames, height and width"):
                tiny.run(pipe, steps=STEPS)
        else:
            assert 0 < difference(tiny.run(pipe, steps=STEPS), plain) < float("inf")
            assert handle.trace.num_reused
        cache.remove(pipe, handle)


@pytest.mark.parametrize("name", [name for name in ("mochi", *KINDS) if name in TINY])
def test_each_video_of_a_guided_batch_has_a_trace_and_the_guidance_is_known(name, caplog):
    tiny = TINY[name]
    pipe = tiny.build()
    with apply_adacache(pipe, StaticScheduleConfig((0, 2))) as handle:
        tiny.run(pipe, steps=4, batch=2)
        assert len(handle.traces) == 2
    assert "nothing says how many videos" not in caplog.text


@pytest.mark.parametrize("name", [name for name in KINDS if name in TINY])
def test_taylorseer_reuses_steps(name):
    trial = Trial(TAYLORSEER, TINY[name], STEPS)
    assert {check(of, trial).outcome for of in ("reuses", "exact", "removed")} == {"pass"}


@pytest.mark.parametrize(("layout", "shape"), [("videos", (2, 12, 5)), ("frames", (6, 4, 5)), ("places", (8, 3, 5))])
def test_tokens_go_back_to_where_their_blocks_had_them(layout, shape):
    """Two videos of 3 frames and 4 places; frame 2 of the second one has its own tokens in all layouts."""
    states = torch.arange(2 * 12 * 5.0).view(2, 3, 4, 5)
    if layout == "places":
        states = states.transpose(1, 2)
    states = states.reshape(shape)
    tokens = tokens_of(states, layout, 2, 3)
    assert torch.equal(tokens[1, 2], torch.arange(100.0, 120.0).view(4, 5))
    assert torch.equal(from_tokens(tokens.flatten(1, 2), states, layout), states)


@pytest.mark.parametrize("name", [name for name in ("wan_vace", "wan_animate", "consisid") if name in TINY])
def test_what_serves_the_blocks_alone_is_left_out_with_them(name):
    tiny = TINY[name]
    pipe = tiny.build()
    called = []
    for aside in find_family(pipe.transformer).aside:
        module = getattr(pipe.transformer, aside)
        first = module[0] if isinstance(module, torch.nn.ModuleList) else module
        first.register_forward_hook(lambda *_, aside=aside: called.append(aside))
    tiny.run(pipe, steps=1)
    in_a_step = list(called)
    called.clear()
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)):
        tiny.run(pipe, steps=STEPS)
    assert in_a_step and called == in_a_step * len(SCHEDULE)


@pytest.mark.parametrize("name", OTHERS)
def test_other_pipelines_of_a_family_are_cached_as_its_first_one(name, caplog):
    trial = Trial(STATIC, OTHERS[name], FEW)
    verdict = check("residual", trial)
    assert verdict.outcome == "pass", verdict
    assert all("fewer steps" in message for message in caplog.messages if message.startswith("AdaCache"))


def others_measured() -> Iterator[Any]:
    """Other pipelines; what is measured is found as in the family's first one, so most are a slow test."""
    for name in OTHERS:
        yield pytest.param(name, marks=() if name in MEASURED else pytest.mark.slow)


@pytest.mark.parametrize("name", list(others_measured()))
def test_other_pipelines_are_measured_as_the_first_one(name):
    trial = Trial(STATIC, OTHERS[name], FEW)
    plain, _ = trial.plain
    if "image" in name:  # whose channels are no part of what the policy goes by
        handle = EASYCACHE.apply(trial.pipe, "some", FEW)
        assert 0 < difference(trial.run(trial.pipe), plain) < float("inf") and handle.trace.num_reused
        handle.remove()
    with apply_adacache(trial.pipe, AdaCacheConfig(codebook=[(1e-9, 2), (1, 1)], metric_blocks=(1,))) as handle:
        assert torch.equal(trial.run(trial.pipe), plain)
    assert all(record.computed and record.distance for record in handle.trace.records[1:])


def by_schedule(tiny: TinyPipeline, runs: int = 1) -> list[bool]:
    """Which calls of the transformers are computed."""
    return runs * [step in SCHEDULE for step in range(STEPS) for _ in range(tiny.calls_per_step)]


@pytest.mark.parametrize(("name", "sections"), [item for item in SECTIONS.items() if item[0] in TINY])
def test_each_section_of_a_video_is_a_run(name, sections, caplog):
    tiny = TINY[name]
    pipe = tiny.build()
    with reused_by_hand(pipe, tiny, by_schedule(tiny, runs=2)) as calls:
        by_hand = tiny.run(pipe, steps=STEPS, **sections)
    assert len(calls) == 2 * STEPS * tiny.calls_per_step
    caplog.set_level(logging.INFO, "adacache")
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        assert difference(tiny.run(pipe, steps=STEPS, **sections), by_hand) <= ROUNDING
    of_ours = [message for message in caplog.messages if message.endswith("steps computed")]
    assert of_ours == [f"AdaCache: {len(SCHEDULE)} of {STEPS} steps computed"] * 2
    assert handle.trace.computed_steps == list(SCHEDULE)


@pytest.mark.skipif("chronoedit" not in TINY, reason="not in this version of diffusers")
def test_a_step_that_has_fewer_frames_than_the_one_before_is_computed():
    tiny = TINY["chronoedit"]
    pipe = tiny.build()
    reasoning = {"enable_temporal_reasoning": True, "num_temporal_reasoning_steps": 5}
    computed = by_schedule(tiny)
    computed[10:12] = True, True
    with reused_by_hand(pipe, tiny, computed):
        by_hand = tiny.run(pipe, steps=STEPS, **reasoning)
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        assert difference(tiny.run(pipe, steps=STEPS, **reasoning), by_hand) <= ROUNDING
    assert handle.trace.computed_steps == sorted({*SCHEDULE, 5})


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [(diffusers.PNDMScheduler, STEPS + 9), (diffusers.HeunDiscreteScheduler, 2 * STEPS - 1)],
)
def test_solvers_that_call_more_often_have_more_steps(scheduler, calls):
    tiny = TINY["latte"]
    pipe = tiny.build()
    pipe.scheduler = scheduler()
    plain = tiny.run(pipe, steps=STEPS)
    with apply_adacache(pipe, StaticScheduleConfig((0, 1, 3))) as handle:
        tiny.run(pipe, steps=STEPS)
        assert handle.trace.num_steps == calls
        assert handle.trace.computed_steps == [0, 1, 3]
    assert torch.equal(tiny.run(pipe, steps=STEPS), plain)


def test_the_second_transformer_of_wan_starts_anew():
    tiny = TINY["wan22"]
    pipe = tiny.build()
    with apply_adacache(pipe, StaticScheduleConfig((0, 1))) as handle:
        tiny.run(pipe, steps=STEPS)
    times = [record.timestep for record in handle.trace.records]
    boundary = pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
    switch = next(index for index, time in enumerate(times) if time < boundary)
    assert 1 < switch < STEPS - 1
    assert handle.trace.computed_steps == [0, 1, switch]
    assert handle.trace.records[switch].joined


WITH_SOUND = [name for name in ("ltx2", "kandinsky6") if name in TINY]


@pytest.mark.parametrize("name", WITH_SOUND)
def test_the_sound_is_left_out_as_it_is_by_hand(name):
    tiny = TINY[name]
    pipe = tiny.build()
    with reused_by_hand(pipe, tiny, by_schedule(tiny)):
        by_hand = pipe(**tiny.arguments(steps=STEPS)).audio
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)):
        assert difference(pipe(**tiny.arguments(steps=STEPS)).audio, by_hand) <= ROUNDING


@pytest.mark.parametrize("name", WITH_SOUND[:1])
def test_a_change_of_the_sound_alone_leads_to_a_computation(name):
    tiny = TINY[name]
    pipe = tiny.build()
    blocks = pipe.transformer.transformer_blocks
    for block in blocks:  # the picture does not listen
        block.audio_to_video_attn.to_out[0].requires_grad_(False).weight.zero_()
        block.audio_to_video_attn.to_out[0].bias.zero_()
    plain = tiny.run(pipe, steps=STEPS)
    with apply_adacache(pipe, AdaCacheConfig(codebook=[(1e-9, 3), (1, 1)], metric_blocks=(1,))) as handle:
        assert torch.equal(tiny.run(pipe, steps=STEPS), plain)
        most = max(record.distance for record in handle.trace.records if record.distance is not None)
    config = AdaCacheConfig(codebook=[(2 * most, 3), (1e9, 1)], metric_blocks=(1,))
    with apply_adacache(pipe, config) as handle:
        tiny.run(pipe, steps=STEPS)
        assert handle.trace.num_computed < STEPS
        loudness = itertools.count(1)
        blocks[1].audio_attn1.register_forward_hook(lambda _, args, output: output * 100 ** next(loudness))
        assert torch.equal(tiny.run(pipe, steps=STEPS), plain)
        assert handle.trace.num_computed == STEPS


@pytest.mark.parametrize("family", ["ltx", "wan"])
def test_under_autocast_reused_steps_have_the_dtype_of_computed_ones(family):
    tiny, pipe = TINY[family], TINY[family].build()
    with torch.autocast("cpu", torch.bfloat16):
        plain = tiny.run(pipe, steps=STEPS)
        with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
            result = tiny.run(pipe, steps=STEPS)
    assert handle.trace.computed_steps == list(SCHEDULE)
    assert result.dtype == plain.dtype and 0 < (result - plain).norm() < plain.norm()
