"""What else is done to a pipeline, before `apply_adacache` or after it: it is served, or refused in words.

`docs/diffusers.md` shows the tables.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import pytest
import torch
import torch.distributed as dist
from diffusers.hooks import group_offloading
from diffusers.hooks.group_offloading import GroupOffloadingConfig, ModuleGroup
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from adacache import AdaCacheConfig
from adacache.conformance.tiny import OTHERS, TINY, TinyPipeline
from adacache.conformance.tiny_pipeline import TEXT_TOKENS, TEXT_WIDTH, noise
from adacache.conformance.trial import ROUNDING, difference, reused_by_hand
from adacache.integrations.diffusers import AdaCacheHandle, apply_adacache
from adacache.policies.static import StaticScheduleConfig

DOC = Path(__file__).resolve().parents[3] / "docs/diffusers.md"
STEPS = 6
# Measures a residual, and reuses what it may.
EAGER = AdaCacheConfig(codebook={"thresholds": [1e9], "rates": [3, 1]}, metric_blocks=(1,))
EVERY_STEP = StaticScheduleConfig(tuple(range(STEPS)))
COMPUTED = [0, 1, 4, 5]
CPU, AWAY = torch.device("cpu"), torch.device("meta")


@dataclass(frozen=True, eq=False)
class Row:
    """Something that is done to a pipeline.

    Attributes:
        what: as the documentation names it.
        change: does it.
        first: is done to the pipeline before all else, in either order.
        before, after: words of the sentence with which it is refused, where it is.
        instead: what to do then.
        is_exact: whether the video stays what it is without it.
        call: arguments of the pipeline's call.
        needs: a package.
        family: of the tiny pipeline that it is tried on.
        is_like: what of another row does nearly the same, which makes this one a slow test.
    """

    what: str
    change: Callable[[Any], object] = lambda pipe: None
    before: str = ""
    after: str = ""
    instead: str = ""
    is_exact: bool = True
    first: Callable[[Any], object] = lambda pipe: None
    call: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    family: str = "wan"
    is_like: str = ""

    @property
    def tiny(self) -> TinyPipeline:
        tiny = {**TINY, **OTHERS}[self.family]
        return replace(tiny, calls_per_step=1) if self.call.get("guidance_scale") == 1 else tiny

    def build(self) -> Any:
        pipe = self.tiny.build()
        self.first(pipe)
        return pipe

    def run(self, pipe: Any) -> Tensor:
        torch.manual_seed(0)
        return self.tiny.run(pipe, **{"steps": STEPS, **self.call})


def refused(what: str, change: Callable[[Any], object], words: str, instead: str) -> Row:
    """The same before and after."""
    return Row(what, change, words, words, instead)


def transformer_does(name: str, *args: Any, **options: Any) -> Callable[[Any], None]:
    return lambda pipe: getattr(pipe.transformer, name)(*args, **options)


def model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload = partial(type(pipe).enable_model_cpu_offload, pipe, device="cpu")
    pipe.enable_model_cpu_offload()


def group_offload(to: torch.device = AWAY, **options: Any) -> Callable[[Any], None]:
    return transformer_does("enable_group_offload", onload_device=CPU, offload_device=to, **options)


class Stream:
    """What is copied on it arrives when it is waited for."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, Tensor]] = []

    def synchronize(self) -> None:
        for tensor, arriving in self.copies:
            torch.utils.swap_tensors(tensor, arriving)
        self.copies.clear()


def group_offload_with_streams(**options: Any) -> Callable[[Any], None]:
    """As `use_stream=True`, which asks for an accelerator."""

    def offload(pipe: Any) -> None:
        stream = Stream()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                group_offloading,
                "GroupOffloadingConfig",
                lambda **own: GroupOffloadingConfig(**own | {"stream": stream}),
            )
            group_offload(**options)(pipe)

    return offload


def sequential_offload(pipe: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    offload = accelerate.cpu_offload
    with pytest.MonkeyPatch.context() as patch:  # weights stay parameters on "cpu", and on "cpu:0" they do not
        patch.setattr(accelerate, "cpu_offload", lambda model, device, **options: offload(model, CPU, **options))
        pipe.enable_sequential_cpu_offload(device="cpu")


def compile_transformer(pipe: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


def compile_block(pipe: Any) -> None:
    pipe.transformer.blocks[1] = torch.compile(pipe.transformer.blocks[1], backend="eager")


class Wrapper(nn.DataParallel):
    """In which pipelines find all that they ask the transformer for."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "module" else getattr(self.module, name)


def wrap(pipe: Any) -> None:
    pipe.transformer = Wrapper(pipe.transformer)


def split_over_processes(pipe: Any) -> None:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "device_count", lambda: 2)
        pipe.transformer.enable_parallelism(config=diffusers.ContextParallelConfig(ulysses_degree=2))


def lora(pipe: Any) -> dict[str, Tensor]:
    """Weights for all linear layers, of blocks and around them."""
    weights = {}
    for number, (name, layer) in enumerate(pipe.transformer.named_modules()):
        if isinstance(layer, nn.Linear):
            weights[f"transformer.{name}.lora_A.weight"] = noise(number, 2, layer.in_features)
            weights[f"transformer.{name}.lora_B.weight"] = noise(-number, layer.out_features, 2) / 10
    assert {"blocks.0.attn1.to_q", "proj_out"} <= {name.removeprefix("transformer.")[:-14] for name in weights}
    return weights


def load_lora(pipe: Any) -> None:
    pipe.load_lora_weights(lora(pipe), adapter_name="a")


def then(*changes: Callable[[Any], object]) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        for one in changes:
            one(pipe)

    return change


def quantize_by_torchao(pipe: Any) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(pipe.transformer, torchao.Int8WeightOnlyConfig())


def quantize_by_bitsandbytes(pipe: Any) -> None:
    """In the blocks, to 4 bits."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    for module in list(pipe.transformer.blocks.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                quantized = bitsandbytes.nn.LinearNF4(
                    layer.in_features, layer.out_features, compute_dtype=torch.float32
                )
                quantized.weight.data, quantized.bias = layer.weight.data, layer.bias
                setattr(module, name, quantized.to("cpu"))


def save(pipe: Any) -> None:
    with TemporaryDirectory() as folder:
        pipe.transformer.save_pretrained(folder)


def with_text(pipe: Any) -> None:
    """A text encoder."""
    pipe._get_t5_prompt_embeds = lambda prompt, num_videos_per_prompt=1, **_: noise(
        len(prompt[0]), 1, TEXT_TOKENS, TEXT_WIDTH
    ).repeat(num_videos_per_prompt, 1, 1)


def pyramid_attention_broadcast() -> Any:
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )


def interrupt(pipe: Any, step: int, time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
    pipe._interrupt = step == 2
    return tensors


TEXT = {"prompt_embeds": None, "negative_prompt_embeds": None, "prompt": "a panda"}
ORDERS = (
    Row("`enable_model_cpu_offload()`", model_offload, needs="accelerate"),
    Row("`enable_sequential_cpu_offload()`", sequential_offload, needs="accelerate"),
    Row(
        '`enable_group_offload(offload_type="block_level")`',
        group_offload(offload_type="block_level", num_blocks_per_group=2),
        needs="accelerate",
    ),
    Row(
        '`enable_group_offload(offload_type="leaf_level")`',
        group_offload(offload_type="leaf_level"),
        needs="accelerate",
    ),
    Row(
        '`enable_group_offload(offload_type="block_level", use_stream=True)`',
        group_offload_with_streams(offload_type="block_level", num_blocks_per_group=1),
        needs="accelerate",
    ),
    Row(
        '`enable_group_offload(offload_type="leaf_level", use_stream=True)`',
        group_offload_with_streams(offload_type="leaf_level"),
        *["group offloading of this .* fetches layers ahead"] * 2,
        instead='`offload_type="block_level"`, or without `use_stream`',
        needs="accelerate",
    ),
    Row("`transformer.compile_repeated_blocks()`", transformer_does("compile_repeated_blocks", backend="eager")),
    refused(
        "`torch.compile(pipe.transformer)`",
        compile_transformer,
        "this .* is compiled as a whole",
        "`compile_repeated_blocks()`",
    ),
    refused(
        "`transformer.compile()`",
        transformer_does("compile", backend="eager"),
        "this .* is compiled as a whole",
        "`compile_repeated_blocks()`",
    ),
    refused(
        "`torch.compile` around a block",
        compile_block,
        "torch.compile wraps blocks in",
        "`compile_repeated_blocks()`",
    ),
    Row("weights quantized by torchao", quantize_by_torchao, is_exact=False, needs="torchao"),
    Row("weights quantized by bitsandbytes", quantize_by_bitsandbytes, is_exact=False, needs="bitsandbytes"),
    Row(
        "`transformer.enable_layerwise_casting()`",
        transformer_does("enable_layerwise_casting", storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32),
        is_exact=False,
    ),
    Row("`pipe.to(torch.bfloat16)`", lambda pipe: pipe.to(torch.bfloat16), is_exact=False),
    Row("`load_lora_weights()`", load_lora, is_exact=False, needs="peft"),
    Row(
        '`load_lora_weights()`, `attention_kwargs={"scale": 0.5}`',
        load_lora,
        is_exact=False,
        call={"attention_kwargs": {"scale": 0.5}},
        needs="peft",
        is_like="`load_lora_weights()`",
    ),
    Row(
        "`set_adapters()` with a strength",
        then(load_lora, lambda pipe: pipe.set_adapters(["a"], [0.5])),
        is_exact=False,
        needs="peft",
        is_like="`load_lora_weights()`",
    ),
    Row(
        "`fuse_lora()`",
        then(load_lora, lambda pipe: pipe.fuse_lora()),
        is_exact=False,
        needs="peft",
        is_like="`load_lora_weights()`",
    ),
    Row(
        "`unfuse_lora()`, `unload_lora_weights()`",
        then(load_lora, lambda p: p.fuse_lora(), lambda p: p.unfuse_lora(), lambda p: p.unload_lora_weights()),
        is_exact=False,
        needs="peft",
    ),
    Row(
        "`load_lora_weights()` on a pipeline that is offloaded by model",
        load_lora,
        first=model_offload,
        is_exact=False,
        needs="peft",
        is_like="`load_lora_weights()` on a pipeline that is offloaded by group",
    ),
    Row(
        "`load_lora_weights()` on a pipeline that is offloaded by group",
        load_lora,
        first=group_offload(CPU, offload_type="leaf_level"),
        is_exact=False,
        needs="peft",
    ),
    Row("`transformer.fuse_qkv_projections()`", transformer_does("fuse_qkv_projections"), is_exact=False),
    Row(
        "`transformer.set_attn_processor()`",
        transformer_does("set_attn_processor", diffusers.models.transformers.transformer_wan.WanAttnProcessor()),
    ),
    Row('`transformer.set_attention_backend("native")`', transformer_does("set_attention_backend", "native")),
    Row("`pipe.vae.enable_tiling()`", lambda pipe: pipe.vae.enable_tiling(), call={"output_type": "pt"}),
    Row("`from_pipe(pipe)`", lambda pipe: diffusers.WanVideoToVideoPipeline.from_pipe(pipe)),
    Row("`pipe.save_pretrained()`", save),
    Row(
        "`copy.deepcopy(pipe)`",
        copy.deepcopy,
        after="cannot be copied or pickled while AdaCache is applied",
        instead="`remove()`, copy, apply to the copy",
    ),
    Row(
        "`pickle.dumps(pipe.transformer)`",
        lambda pipe: pickle.dumps(pipe.transformer),
        after="cannot be copied or pickled while AdaCache is applied",
        instead="`remove()`, pickle, apply to what is loaded",
    ),
    refused(
        "`device_map` with several devices",
        lambda pipe: setattr(pipe.transformer, "hf_device_map", {"patch_embedding": 0, "blocks": 1}),
        "this .* is spread over devices",
        "one device, with offloading",
    ),
    refused("`nn.DataParallel` and other wrappers", wrap, "wrapped in", "a pipeline per device"),
    refused(
        "`enable_parallelism()`",
        split_over_processes,
        "this .* is split over processes by enable_parallelism",
        "one of the two",
    ),
    refused(
        "`transformer.enable_cache()`",
        lambda pipe: pipe.transformer.enable_cache(pyramid_attention_broadcast()),
        r"is cached by diffusers already \(PyramidAttentionBroadcastConfig\)",
        "`transformer.disable_cache()`",
    ),
    refused(
        "a cache hook of diffusers without `enable_cache()`",
        lambda pipe: diffusers.apply_first_block_cache(
            pipe.transformer, diffusers.FirstBlockCacheConfig(threshold=0.1)
        ),
        "has the cache hook '",
        "one of the two",
    ),
    Row(
        "`cache_dit.enable_cache(pipe)`",
        lambda pipe: pytest.importorskip("cache_dit").enable_cache(pipe),
        *["this .* is cached by cache-dit already"] * 2,
        instead="one of the two",
        needs="cache_dit",
    ),
    refused(
        "`apply_adacache()` again",
        lambda pipe: apply_adacache(pipe, EAGER),
        "AdaCache is applied to this .* already",
        "`remove()` of the first handle",
    ),
)
CALLS = (
    Row("`prompt_embeds=`"),
    Row("a prompt and no `negative_prompt`", with_text, call=TEXT),
    Row(
        "`num_videos_per_prompt=2`",
        with_text,
        call={**TEXT, "num_videos_per_prompt": 2, "generator": None},
    ),
    Row("`guidance_scale=1` where guidance is a second call", call={"guidance_scale": 1.0}),
    Row("`guidance_scale=1` where it is in the batch", call={"guidance_scale": 1.0}, family="cogvideox"),
    Row("`strength=0.5`", call={"steps": 2 * STEPS, "strength": 0.5}, family="wan_video"),
    Row("`attention_kwargs={}`", call={"attention_kwargs": {}}),
    Row("`callback_on_step_end` that sets `pipe._interrupt`", call={"callback_on_step_end": interrupt}),
)


@pytest.fixture(autouse=True)
def second_device(monkeypatch) -> Iterator[None]:
    """There is none: weights that are away have no data, and those that are under way are NaN."""

    def tensors_of(group: ModuleGroup) -> list[Tensor]:
        found = [tensor for module in group.modules for tensor in [*module.parameters(), *module.buffers()]]
        return list({id(tensor): tensor for tensor in [*found, *group.parameters, *group.buffers]}.values())

    def like(tensor: Tensor, data: Tensor) -> Tensor:
        return nn.Parameter(data, requires_grad=False) if isinstance(tensor, nn.Parameter) else data

    kept: dict[int, Tensor] = {}

    def away(group: ModuleGroup) -> None:
        for tensor in tensors_of(group):
            if tensor.device != AWAY and not tensor.isnan().any():
                kept[id(tensor)] = tensor.detach().clone()
                empty = torch.full_like(tensor, torch.nan, device=group.offload_device)
                torch.utils.swap_tensors(tensor, like(tensor, empty))

    def back(group: ModuleGroup) -> None:
        if group.stream is not None:
            group.stream.synchronize()
        for tensor in tensors_of(group):
            arriving = like(tensor, kept[id(tensor)].clone())
            if group.stream is not None and group.non_blocking:
                group.stream.copies.append((tensor, arriving))
                arriving = like(tensor, torch.full_like(arriving, torch.nan))
            torch.utils.swap_tensors(tensor, arriving)

    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", away)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", back)
    monkeypatch.setattr(ModuleGroup, "_init_cpu_param_dict", lambda group: {})
    yield
    torch._dynamo.reset()
    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def plain(row: Row) -> Tensor:
    pipe = row.build()
    row.change(pipe)
    return row.run(pipe)


@cache
def reused(row: Row) -> tuple[Tensor, list[float | None]]:
    """What a cached run gives where nothing was changed, and what it measures."""
    pipe = row.build()
    with apply_adacache(pipe, EAGER) as handle:
        return row.run(pipe), measured(handle)


@cache
def by_hand(row: Row) -> Tensor:
    pipe = row.build()
    row.change(pipe)
    calls = [step in COMPUTED for step in range(STEPS) for _ in range(row.tiny.calls_per_step)]
    with reused_by_hand(pipe, row.tiny, calls):
        return row.run(pipe)


NOTHING = Row("nothing")


def unchanged(row: Row) -> Row:
    """The row that gives the same where the change alters no number; most share one, which is computed once."""
    own = row.call or row.first is not NOTHING.first or row.family != NOTHING.family
    return row if own else NOTHING


def measured(handle: AdaCacheHandle) -> list[float | None]:
    return [record.distance for record in handle.trace.records]


@pytest.mark.parametrize("comes_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] if row.is_like else []) for row in ORDERS],
    ids=lambda row: row.what,
)
def test_it_is_served_or_refused_in_words_in_either_order(row, comes_first):
    if row.needs:
        pytest.importorskip(row.needs)
    pipe = row.build()
    if comes_first:
        row.change(pipe)
    words = row.before if comes_first else row.after
    refusal = pytest.raises((ValueError, TypeError), match=words) if words else nullcontext()
    with refusal, apply_adacache(pipe, EAGER) as handle:
        if not comes_first:
            row.change(pipe)
        latents = row.run(pipe)
    if words:
        return
    assert handle.trace.computed_steps == COMPUTED
    without = plain(unchanged(row) if row.is_exact else row)
    if row.is_exact:
        expected, distances = reused(unchanged(row))
        assert torch.equal(latents, expected) and measured(handle) == distances
    else:
        rounding = 0.1 if latents.dtype == torch.bfloat16 else ROUNDING
        assert difference(latents, by_hand(row)) <= rounding
        assert all(distance > 0 for distance in measured(handle) if distance is not None)
        if comes_first:
            with apply_adacache(pipe, EVERY_STEP):
                assert torch.equal(row.run(pipe), without)
    assert torch.equal(row.run(pipe), without) and not torch.equal(latents, without)


@pytest.mark.parametrize("goes_first", [True, False])
@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize("offload", [model_offload, sequential_offload])
def test_offloading_and_the_cache_are_removed_in_either_order(offload, comes_first, goes_first):
    pytest.importorskip("accelerate")
    row = NOTHING
    pipe = row.build()
    if comes_first:
        offload(pipe)
    handle = apply_adacache(pipe, EAGER)
    if not comes_first:
        offload(pipe)
    expected, _ = reused(row)
    assert torch.equal(row.run(pipe), expected)
    for remove in (pipe.remove_all_hooks, handle.remove) if goes_first else (handle.remove, pipe.remove_all_hooks):
        remove()
        assert torch.equal(row.run(pipe), expected if remove == pipe.remove_all_hooks and goes_first else plain(row))
    assert pipe.transformer.forward == type(pipe.transformer).forward.__get__(pipe.transformer)
    assert not vars(pipe.transformer).keys() & {"_hf_hook", "_old_forward"}


@pytest.mark.skipif("ltx2" not in TINY, reason="not in this version of diffusers")
def test_what_a_sound_adds_is_measured_while_the_weights_are_there():
    pytest.importorskip("accelerate")
    row = Row("offloading", family="ltx2")
    pipe = row.build()
    sequential_offload(pipe)
    with apply_adacache(pipe, EAGER) as handle:
        latents = row.run(pipe)
    expected, distances = reused(row)
    assert torch.equal(latents, expected) and measured(handle) == distances


def test_a_pipeline_from_another_one_is_cached_as_that_one_and_computed_where_its_steps_are_others():
    pipe = TINY["wan"].build()
    tiny, other = OTHERS["wan_video"], diffusers.WanVideoToVideoPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    with apply_adacache(other, EAGER):
        own = tiny.run(other)
    shorter = tiny.run(other, strength=0.7)
    with apply_adacache(pipe, EAGER) as handle:
        expected, steps = TINY["wan"].run(pipe), handle.trace.computed_steps
        assert torch.equal(tiny.run(other), own) and handle.trace.num_reused
        assert torch.equal(tiny.run(other, strength=0.7), shorter)
        assert torch.equal(TINY["wan"].run(pipe), expected) and handle.trace.computed_steps == steps


@pytest.mark.parametrize("row", CALLS, ids=lambda row: row.what)
def test_it_is_served_however_it_is_called(row):
    pipe = row.build()
    row.change(pipe)
    with apply_adacache(pipe, EAGER) as handle:
        assert difference(row.run(pipe), by_hand(row)) <= ROUNDING
        assert handle.trace.computed_steps == [step for step in COMPUTED if step < len(handle.trace.records)]
        assert len(handle.traces) == row.call.get("num_videos_per_prompt", 1)
    assert torch.equal(row.run(pipe), plain(row))


def test_a_slow_row_is_like_a_quick_one():
    assert {row.is_like for row in ORDERS if row.is_like} <= {row.what for row in ORDERS if not row.is_like}


def table() -> str:
    """What `docs/diffusers.md` says."""
    lines = [
        "| done to the pipeline | before `apply_adacache` | after it | refused with | instead |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(ORDERS, key=lambda row: bool(row.before) + bool(row.after)):
        served = ["refused" if words else "served" for words in (row.before, row.after)]
        words = re.sub(r"\\", "", row.after.replace(".*", "..."))
        lines.append(f"| {row.what} | {' | '.join(served)} | {f'`{words}`' if words else ''} | {row.instead} |")
    return "\n".join([*lines, "", f"Served however it is called: {'; '.join(row.what for row in CALLS)}."])


def test_the_documentation_shows_these_tables():
    assert table() in DOC.read_text(), table()
