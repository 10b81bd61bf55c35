"""What `apply_adacache` refuses, and what it warns of."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers.hooks import HookRegistry
from packaging.version import Version

from adacache import AdaCacheConfig, StepRecord, Trace
from adacache.conformance.tiny import OTHERS, TINY
from adacache.integrations.diffusers import apply_adacache
from adacache.integrations.diffusers.apply import _report
from adacache.integrations.diffusers.families import KNOWN, REFUSED
from adacache.policies.static import StaticScheduleConfig

ROOT = Path(__file__).resolve().parents[3]

TINY_LATTE = TINY["latte"]
STATIC = StaticScheduleConfig((0, 1, 3))


@pytest.fixture
def pipe() -> Any:
    return TINY_LATTE.build()


def refused(pipe: Any, words: str, config: Any = STATIC, kind: type[Exception] = ValueError, **options: Any) -> None:
    """It is, and leaves no hook behind."""
    with pytest.raises(kind, match=words):
        apply_adacache(pipe, config, **options)
    for name in ("transformer", "transformer_2"):
        registry = getattr(getattr(pipe, name, None), "_diffusers_hook", None)
        assert registry is None or "adacache" not in registry.hooks


def test_one_transformer_in_both_places_is_cached_once():
    pipe = TINY["wan22"].build()
    pipe.transformer_2 = pipe.transformer
    with apply_adacache(pipe, StaticScheduleConfig((0, 1, 4, 5))) as handle:
        assert len(handle.transformers) == 1
        TINY["wan22"].run(pipe, steps=6)
    assert {0, 1, 4, 5} <= set(handle.trace.computed_steps) and handle.trace.num_reused


def test_if_the_second_transformer_cannot_be_hooked_the_first_is_left_alone(monkeypatch):
    pipe, register = TINY["wan22"].build(), HookRegistry.register_hook

    def fail(registry, hook, name):
        if registry is getattr(pipe.transformer_2, "_diffusers_hook", None):
            raise RuntimeError("no room")
        register(registry, hook, name)

    monkeypatch.setattr(HookRegistry, "register_hook", fail)
    refused(pipe, "no room", kind=RuntimeError)
    monkeypatch.undo()
    with apply_adacache(pipe, StaticScheduleConfig((0, 1, 4, 5))) as handle:
        TINY["wan22"].run(pipe, steps=6)
    assert handle.trace.num_reused


def test_what_has_no_transformer(pipe):
    refused(SimpleNamespace(unet=torch.nn.Linear(1, 1)), "SimpleNamespace has no transformer.*docs/diffusers.md")


def test_a_transformer_of_no_known_family():
    image = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=8
    )
    refused(SimpleNamespace(transformer=image), "PixArtTransformer2DModel.*LatteTransformer3DModel")


@pytest.mark.parametrize("name", REFUSED)
def test_a_transformer_that_cannot_be_cached(name):
    transformer = type(name, (torch.nn.Module,), {})()
    refused(SimpleNamespace(transformer=transformer), f"^{name} cannot be cached: {REFUSED[name]}$")


def test_blocks_that_are_not_the_familys(pipe):
    pipe.transformer.transformer_blocks = torch.nn.ModuleList([torch.nn.Identity()] * 4)
    refused(pipe, "Identity")


def test_after_a_second_one_was_refused_the_first_goes_on(pipe):
    with apply_adacache(pipe, STATIC):
        with pytest.raises(ValueError, match="applied to this LatteTransformer3DModel already"):
            apply_adacache(pipe, STATIC)
        TINY_LATTE.run(pipe)
    with apply_adacache(pipe, STATIC) as handle:  # and after it there may be another
        TINY_LATTE.run(pipe)
    assert handle.trace.computed_steps == [0, 1, 3]


def documented(heading: str) -> set[str]:
    """Names in the paragraph of docs/diffusers.md that begins with `heading`."""
    _, found, rest = (ROOT / "docs/diffusers.md").read_text().partition(heading)
    assert found
    return set(re.findall(r"`(\w+)`", rest.partition("\n\n")[0]))


def test_every_video_transformer_is_served_or_named_as_not_served():
    others = {name for name in dir(diffusers) if name.endswith("Transformer3DModel")} - KNOWN.keys()
    assert not KNOWN.keys() & REFUSED.keys()
    named = {f"{name}Transformer3DModel" for name in documented("Not served")}
    assert others <= named, f"new to diffusers: {sorted(others - named)}"


def video_transformers_of(pipeline: str) -> set[str]:
    """Names of video transformers that a pipeline of diffusers takes; of a modular one, those that its folder names."""
    try:
        cls = getattr(diffusers, pipeline)
    except RuntimeError:  # needs something that is not installed
        return set()
    if pipeline.endswith("ModularPipeline"):
        text = "".join(path.read_text() for path in Path(inspect.getsourcefile(cls)).parent.glob("*.py"))
    else:
        text = str(inspect.signature(cls).parameters.get("transformer"))
    return {name for name in re.findall(r"\w+", text) if name.endswith("Transformer3DModel") or name in REFUSED}


@pytest.mark.skipif(Version(diffusers.__version__) < Version("0.42"), reason="the document is of diffusers 0.42")
def test_every_video_pipeline_is_run_refused_or_named_as_not_run():
    pipelines = {name: video_transformers_of(name) for name in dir(diffusers) if name.endswith("Pipeline")}
    videos = {name for name, transformers in pipelines.items() if transformers}
    refused = {name for family in KNOWN.values() for name in family.refused_pipelines}
    refused |= {name for name in videos if pipelines[name].isdisjoint(KNOWN)}
    run = {tiny.pipeline for tiny in (TINY | OTHERS).values()}
    assert {"WanPipeline", "LTXPipeline"} <= videos
    rest = videos - run - refused
    named = documented("Not run by us")
    assert rest <= named, f"new to diffusers: {sorted(rest - named)}"
    assert named.isdisjoint(run | refused)
    text = (ROOT / "docs/diffusers.md").read_text()
    assert not [name for name in run if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [(family, name) for family in KNOWN.values() for name in family.refused_pipelines if hasattr(diffusers, name)],
)
def test_pipelines_around_a_known_transformer_that_cannot_be_cached(family, pipeline):
    transformer = next(made for made in map(transformer_of, TINY) if type(made).__name__ == family.transformer)
    refused(type(pipeline, (), {"transformer": transformer})(), f"{pipeline} cannot be cached: its? ")


@cache
def transformer_of(tiny: str) -> Any:
    return TINY[tiny].build().transformer


@pytest.mark.skipif("wan_vace" not in TINY, reason="not in this version of diffusers")
def test_what_is_added_after_the_last_block_would_be_lost():
    tiny = TINY["wan_vace"]
    pipe = replace(tiny, options={**tiny.options, "vace_layers": [0, 3]}).build()
    refused(pipe, "WanVACETransformer3DModel adds something after its last block")


def test_after_diffusers_own_cache_is_disabled_runs_go_on():
    tiny = TINY["wan"]
    pipe = tiny.build()
    own = diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    with apply_adacache(pipe, STATIC):
        pipe.transformer.enable_cache(own)
        with pytest.raises(ValueError, match=r"cached by diffusers already.*disable_cache\(\)"):
            tiny.run(pipe)
        pipe.transformer.disable_cache()
        tiny.run(pipe)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (AdaCacheConfig(codebook="fast30", metric_blocks=(13,)), "block 13.*4 blocks|metric_blocks .*4 blocks"),
        (AdaCacheConfig(codebook="fast30", metric="ca-mlp", metric_blocks=(1,)), "metric of a diffusers model.*t-attn"),
        ("fast31", "preset.*fast30"),
        ({"policy": "teacache"}, "teacache"),
        ({"policy": "fbcache", "threshold": 0.1}, "policy 'fbcache' .* first block.*choose another"),
        ({"policy": "pab"}, "pab"),
        ({"policy": "static", "file": "schedule.json"}, "give StaticScheduleConfig.from_file"),
        ({"do_cache": False}, "do_cache=False asks for no cache"),
    ],
)
def test_configs_that_do_not_fit(pipe, config, words):
    refused(pipe, words, config)


@pytest.mark.parametrize("config", [None, 3, ["fast30"]])
def test_what_is_no_config(pipe, config):
    refused(pipe, "needs a config such as AdaCacheConfig.*fast30", config, TypeError)


def test_a_transformer_alone_needs_the_scheduler_of_its_loop(pipe):
    refused(pipe.transformer, "give apply_adacache the pipeline, or the scheduler", kind=TypeError)


def test_a_scheduler_without_timesteps(pipe):
    with apply_adacache(pipe.transformer, STATIC, scheduler=SimpleNamespace(timesteps=None)) as handle:
        with pytest.raises(RuntimeError, match="SimpleNamespace has no timesteps; call its set_timesteps"):
            TINY_LATTE.run(pipe)
        with pytest.raises(RuntimeError, match="there is no trace yet"):
            _ = handle.trace


def test_a_schedule_for_more_steps_than_the_run_has(pipe):
    with apply_adacache(pipe, StaticScheduleConfig((0, 7))):
        with pytest.raises(ValueError, match="computed_steps go up to 7, but the run has steps 0 to 5"):
            TINY_LATTE.run(pipe)
        TINY_LATTE.run(pipe, steps=8)  # the next run is none the worse


def test_a_run_that_was_refused_is_no_call_that_was_missed(pipe, caplog):
    with (
        pytest.raises(ValueError, match="computed_steps go up to 7"),
        apply_adacache(pipe, StaticScheduleConfig((0, 7))),
    ):
        TINY_LATTE.run(pipe)
    assert "saw no call" not in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"batch": 2}, {"guidance_scale": 1.0}, "scheduler"],
    ids=str,
)
def test_anything_may_change_between_runs(pipe, change):
    """A run under a handle that has seen others is a run under a new one."""
    with apply_adacache(pipe, STATIC) as handle:
        TINY_LATTE.run(pipe)
        if change == "scheduler":
            pipe.scheduler, change = diffusers.PNDMScheduler(), {}
        latents = TINY_LATTE.run(pipe, **change)
        traces = [trace.computed_steps for trace in handle.traces]
    with apply_adacache(pipe, STATIC) as handle:
        assert torch.equal(TINY_LATTE.run(pipe, **change), latents)
        assert [trace.computed_steps for trace in handle.traces] == traces
        assert handle.trace.num_steps == len(pipe.scheduler.timesteps)


def test_a_handle_that_saw_no_call_says_so(pipe, caplog):
    apply_adacache(pipe, STATIC).remove()
    assert "AdaCache saw no call of the LatteTransformer3DModel" in caplog.text


@pytest.mark.parametrize("runs_before", [0, 1])
def test_a_transformer_that_was_replaced_is_said(pipe, caplog, runs_before):
    with apply_adacache(pipe, STATIC) as handle:
        for _ in range(runs_before):
            TINY_LATTE.run(pipe)
            assert handle.trace.num_reused and "was replaced" not in caplog.text
        pipe.transformer = TINY_LATTE.build().transformer
        TINY_LATTE.run(pipe)
        if runs_before:
            assert handle.trace.num_reused and "was replaced after apply_adacache" in caplog.text
            caplog.clear()
    assert "the pipeline's transformer was replaced after apply_adacache" in caplog.text
    assert "then apply_adacache again" in caplog.text


def test_one_of_two_transformers_that_was_replaced_is_said_when_the_next_run_starts(caplog):
    tiny = TINY["wan22"]
    pipe = tiny.build()
    apply_adacache(pipe, STATIC)
    tiny.run(pipe)
    assert "was replaced" not in caplog.text
    pipe.transformer_2 = tiny.build().transformer_2
    tiny.run(pipe)
    assert "the pipeline's transformer was replaced after apply_adacache" in caplog.text


@pytest.mark.parametrize("names", [("transformer",), ("transformer", "transformer_2")])
def test_transformers_that_are_set_aside_are_not_replaced(names, caplog):
    tiny = TINY["wan22"]
    pipe = tiny.build()
    with apply_adacache(pipe, STATIC) as handle:
        tiny.run(pipe)
        kept = list(handle.transformers)
        for name in names:
            setattr(pipe, name, None)
        assert handle.trace.num_reused
    assert not any("_diffusers_hook" in vars(transformer) for transformer in kept)
    assert "was replaced" not in caplog.text


def replaced_forward(transformer: Any, *args: Any, **kwargs: Any) -> Any:
    """As a patch of TeaCache's is: the model's own forward, with additions."""
    return OWN_FORWARD(transformer, *args, **kwargs)


OWN_FORWARD = diffusers.LatteTransformer3DModel.forward
PATCHED = "the forward of this LatteTransformer3DModel was replaced by replaced_forward, as TeaCache's patches do"


def test_a_forward_that_was_replaced_is_refused(pipe, monkeypatch):
    pipe.transformer.forward = MethodType(replaced_forward, pipe.transformer)
    refused(pipe, PATCHED)
    del pipe.transformer.forward
    monkeypatch.setattr(diffusers.LatteTransformer3DModel, "forward", replaced_forward)
    refused(pipe, PATCHED)


def test_a_class_that_is_patched_later_is_refused_at_the_next_run_and_free_afterwards(pipe, monkeypatch):
    plain = TINY_LATTE.run(pipe)
    with apply_adacache(pipe, STATIC):
        monkeypatch.setattr(diffusers.LatteTransformer3DModel, "forward", replaced_forward)
        with pytest.raises(ValueError, match=PATCHED):
            TINY_LATTE.run(pipe)
    assert "forward" not in vars(pipe.transformer)  # it would hide the patch
    monkeypatch.undo()
    assert torch.equal(TINY_LATTE.run(pipe), plain)


def test_a_forward_that_is_compiled_is_refused(pipe):
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend="eager")
    refused(pipe, "this LatteTransformer3DModel is compiled as a whole")


def test_what_is_wrapped_around_the_hook_outlives_it(pipe):
    """As a profiler's wrapper does; what it wraps then passes calls on."""
    plain = TINY_LATTE.run(pipe)
    handle = apply_adacache(pipe, STATIC)
    cached, inner = TINY_LATTE.run(pipe), pipe.transformer.forward
    pipe.transformer.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    assert torch.equal(TINY_LATTE.run(pipe), cached)
    handle.remove()
    assert torch.equal(TINY_LATTE.run(pipe), plain) and not torch.equal(plain, cached)


def test_a_run_that_reused_nothing_says_so(pipe, caplog):
    config = AdaCacheConfig(codebook=[(1e-9, 2), (1, 1)], metric_blocks=(1,))
    with apply_adacache(pipe, config), caplog.at_level(logging.WARNING):
        TINY_LATTE.run(pipe)
    assert "no step of 6 was reused" in caplog.text


def test_a_run_of_few_steps_is_said_once_to_have_little_to_reuse(pipe, caplog):
    with apply_adacache(pipe, STATIC):
        for steps in (10, 9, 4):
            TINY_LATTE.run(pipe, steps=steps)
    [message] = [message for message in caplog.messages if "fewer steps" in message]
    assert message.startswith("AdaCache: a run of 9 steps leaves little to reuse: below 10, caching gives what fewer")


def test_removing_again_does_nothing(pipe):
    handle = apply_adacache(pipe, STATIC)
    TINY_LATTE.run(pipe)
    handle.remove()
    handle.remove()
    assert handle.trace.computed_steps == [0, 1, 3]


def test_no_hook_stays_where_a_with_block_fails(pipe):
    with pytest.raises(KeyError), apply_adacache(pipe, STATIC):
        raise KeyError
    assert "forward" not in vars(pipe.transformer)


def test_a_video_of_a_batch_that_reused_nothing_is_told_of_once(caplog):
    traces = [Trace(3, [StepRecord(i, None, i != 1 or alone) for i in range(3)]) for alone in (False, True, True)]
    _report(SimpleNamespace(traces=traces, trace=traces[0], config=AdaCacheConfig()))
    [sentence] = [message for message in caplog.messages if "no step of 3 was reused" in message]
    assert "thresholds" in sentence
