"""What the cache does to pipelines of every family of diffusers, on tiny random models."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from adacache import AdaCacheConfig
from adacache.conformance.tiny import OTHERS, TINY, TinyPipeline
from adacache.integrations.diffusers import apply_adacache
from adacache.integrations.diffusers.families import find_family
from adacache.integrations.diffusers.family import from_tokens, tokens_of
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig

STEPS = 8
SCHEDULE = (0, 1, 3, 7)
# What makes these pipelines sample a video in two sections.
SECTIONS = {
    "framepack": {"num_frames": 17},
    "wan_animate": {name: [*video, *video[1:]] for name, video in TINY["wan_animate"].call.items() if "video" in name},
}
EVERY_STEP = StaticScheduleConfig(tuple(range(STEPS)))


@pytest.fixture(params=list(TINY))
def tiny(request) -> TinyPipeline:
    return TINY[request.param]


@pytest.fixture
def pipe(tiny) -> Any:
    return tiny.build()


def transformers_of(pipe: Any) -> list[torch.nn.Module]:
    found = [pipe.transformer, getattr(pipe, "transformer_2", None)]
    return [transformer for transformer in found if transformer is not None]


def assert_close(latents: Tensor, expected: Tensor) -> None:
    """Equal up to rounding: untrained models have latents of any size."""
    assert (latents - expected).abs().max() <= 2e-5 * expected.abs().max()


def adacache(pipe: Any, tiny: TinyPipeline) -> AdaCacheConfig:
    """A codebook between what two videos of this random model measure first, so that their schedules differ."""
    measured = []
    with apply_adacache(pipe, AdaCacheConfig(codebook=[(1e-6, 2), (1, 1)], metric_blocks=(1,))) as handle:
        for seed in (0, 1):
            tiny.run(pipe, seed=seed, steps=STEPS)
            measured.append(next(record.distance for record in handle.trace.records if record.distance is not None))
    low, high = sorted(measured)
    between = (low + high) / 2
    assert low < 0.999 * between  # rounding does not lead over it
    return AdaCacheConfig(codebook=[(between, 3), (2 * high, 1)], metric_blocks=(1,))


def test_a_removed_handle_leaves_everything_as_it_was(pipe, tiny):
    plain = tiny.run(pipe)
    models = transformers_of(pipe)
    states = [copy.deepcopy(model.state_dict()) for model in models]
    attributes = [set(vars(model)) for model in models]
    handle = apply_adacache(pipe, StaticScheduleConfig((0, 1, 3)))
    assert not torch.equal(tiny.run(pipe), plain)
    handle.remove()
    assert torch.equal(tiny.run(pipe), plain)
    for model, state, names in zip(models, states, attributes, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert set(vars(model)) <= names | {"_diffusers_hook"}  # diffusers makes an empty one when it sets contexts
        assert not getattr(getattr(model, "_diffusers_hook", None), "hooks", {})
        assert model.forward.__func__ is type(model).forward
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_run_that_computes_every_step_is_the_plain_one(pipe, tiny):
    plain = tiny.run(pipe, steps=STEPS)
    with apply_adacache(pipe, EVERY_STEP) as handle:
        assert torch.equal(tiny.run(pipe, steps=STEPS), plain)
    assert handle.trace.computed_steps == list(range(STEPS))


def by_places(frames: Tensor, places: Tensor) -> Tensor:
    """Latte begins with the places of each frame, and ends with the frames of each place."""
    videos = len(frames) // places.shape[1]
    return frames.unflatten(0, (videos, -1)).transpose(1, 2).flatten(0, 1)


@contextmanager
def skipped_by_hand(pipe: Any, tiny: TinyPipeline, schedule: tuple[int, ...]) -> Iterator[list[bool]]:
    """Runs every block, and in steps that are not in `schedule` replaces what the last one gives."""
    residuals: dict[tuple[int, int], list[Tensor]] = {}  # of each transformer and guidance half
    inputs: list[Tensor] = []
    calls: list[bool] = []  # whether each was computed
    handles = []
    for number, model in enumerate(transformers_of(pipe)):
        first = getattr(model, tiny.lists[0])[0]
        last = getattr(model, tiny.lists[-1])[-1]
        names = ["hidden_states", *filter(None, [find_family(model).audio])]

        def enter(_, args, kwargs, names=names):
            inputs[:] = [
                kwargs.get(name, args[place] if place < len(args) else None) for place, name in enumerate(names)
            ]

        def leave(_, args, output, number=number):
            states = output if isinstance(output, tuple) else (output,)
            step, half = divmod(len(calls), tiny.calls_per_step)
            computed = step % STEPS in schedule or (number, half) not in residuals
            calls.append(computed)
            pairs = zip(inputs, states, strict=False)
            starts = [start if start.shape == end.shape else by_places(start, end) for start, end in pairs]
            if computed:
                residuals[number, half] = [end - start for start, end in zip(starts, states, strict=False)]
            results = [start + residual for start, residual in zip(starts, residuals[number, half], strict=True)]
            return (*results, *states[len(results) :]) if isinstance(output, tuple) else results[0]

        handles += [first.register_forward_pre_hook(enter, with_kwargs=True), last.register_forward_hook(leave)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def test_leaving_out_the_stack_is_what_it_is_by_hand(pipe, tiny):
    with skipped_by_hand(pipe, tiny, SCHEDULE) as calls:
        by_hand = tiny.run(pipe, steps=STEPS)
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        latents = tiny.run(pipe, steps=STEPS)
    assert handle.trace.computed_steps == [step for step in range(STEPS) if calls[step * tiny.calls_per_step]]
    assert_close(latents, by_hand)


def test_holding_outputs_is_what_it_is_by_hand_and_needs_no_call(pipe, tiny, monkeypatch):
    models, outputs, calls = transformers_of(pipe), {}, []

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
    embedded = []
    for model in models:
        next(model.children()).register_forward_hook(lambda *_: embedded.append(1))
    with apply_adacache(pipe, EVERY_STEP):
        tiny.run(pipe, steps=STEPS)
    of_a_call = len(embedded) // len(calls)
    embedded.clear()
    coefficients = (((1.0,), (1.0,)),) * len(SCHEDULE)
    with apply_adacache(pipe, MultistepConfig(SCHEDULE, num_sampling_steps=STEPS, coefficients=coefficients)) as handle:
        assert torch.equal(tiny.run(pipe, steps=STEPS), by_hand)
    assert handle.trace.computed_steps == [step for step in range(STEPS) if calls[step * tiny.calls_per_step]]
    assert len(embedded) == of_a_call * sum(calls)


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


@pytest.mark.parametrize("name", [name for name in ("wan_vace", "wan_animate") if name in TINY])
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
    tiny = OTHERS[name]
    pipe = tiny.build()
    plain = tiny.run(pipe, steps=STEPS)
    with skipped_by_hand(pipe, tiny, SCHEDULE) as calls:
        by_hand = tiny.run(pipe, steps=STEPS)
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        assert_close(tiny.run(pipe, steps=STEPS), by_hand)
    assert handle.trace.computed_steps == [step for step in range(STEPS) if calls[step * tiny.calls_per_step]]
    with apply_adacache(pipe, {"policy": "easycache", "threshold": 1e6, "warmup": 2}) as handle:
        assert tiny.run(pipe, steps=STEPS).isfinite().all()
    assert handle.trace.computed_steps == [0, 1, STEPS - 1]
    assert "AdaCache" not in caplog.text
    with apply_adacache(pipe, EVERY_STEP):
        assert torch.equal(tiny.run(pipe, steps=STEPS), plain)


def test_a_batch_of_two_is_two_single_runs(pipe, tiny):
    config = adacache(pipe, tiny)
    with apply_adacache(pipe, config) as handle:
        singles = []
        for seed in (0, 1):
            latents = tiny.run(pipe, seed=seed, steps=STEPS)
            singles.append((latents[0], handle.trace.computed_steps))
        assert singles[0][1] != singles[1][1]
        both = tiny.run(pipe, steps=STEPS, batch=2)
        assert [trace.computed_steps for trace in handle.traces] == [steps for _, steps in singles]
        for latents, (single, _) in zip(both, singles, strict=True):
            assert_close(latents, single)


def test_the_second_run_equals_the_first_also_after_an_exception(pipe, tiny, monkeypatch):
    steps_done = iter([1, 2])
    step = pipe.scheduler.step

    def fail(*args, **kwargs):
        if next(steps_done, None) is None:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with apply_adacache(pipe, adacache(pipe, tiny)) as handle:
        first = tiny.run(pipe, steps=STEPS)
        steps = handle.trace.computed_steps
        assert torch.equal(tiny.run(pipe, steps=STEPS), first)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(pipe.scheduler, "step", fail)
            tiny.run(pipe, seed=5, steps=STEPS)
        assert torch.equal(tiny.run(pipe, steps=STEPS), first)
        assert handle.trace.computed_steps == steps


def test_steps_are_calls_of_the_transformer(pipe, tiny):
    calls = []
    hooks = [model.register_forward_pre_hook(lambda *_: calls.append(1)) for model in transformers_of(pipe)]
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        tiny.run(pipe, steps=STEPS)
    assert handle.trace.num_steps * tiny.calls_per_step == len(calls)
    assert [record.index for record in handle.trace.records] == list(range(STEPS))
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("name", "sections"), SECTIONS.items())
def test_each_section_of_a_video_is_a_run(name, sections, caplog):
    tiny = TINY[name]
    pipe = tiny.build()
    with skipped_by_hand(pipe, tiny, SCHEDULE) as calls:
        by_hand = tiny.run(pipe, steps=STEPS, **sections)
    assert len(calls) == 2 * STEPS * tiny.calls_per_step
    caplog.set_level(logging.INFO, "adacache")
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)) as handle:
        assert_close(tiny.run(pipe, steps=STEPS, **sections), by_hand)
    assert caplog.messages == [f"AdaCache: {len(SCHEDULE)} of {STEPS} steps computed"] * 2
    assert handle.trace.computed_steps == list(SCHEDULE)


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


def test_the_sound_is_left_out_as_it_is_by_hand():
    tiny = TINY["ltx2"]
    pipe = tiny.build()
    with skipped_by_hand(pipe, tiny, SCHEDULE):
        by_hand = pipe(**tiny.arguments(steps=STEPS)).audio
    with apply_adacache(pipe, StaticScheduleConfig(SCHEDULE)):
        assert_close(pipe(**tiny.arguments(steps=STEPS)).audio, by_hand)


def test_a_change_of_the_sound_alone_leads_to_a_computation():
    tiny = TINY["ltx2"]
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
