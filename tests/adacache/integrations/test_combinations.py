"""What else is done to a transformer, before or after `apply_adacache`: it is served, or refused in words."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
import torch.distributed as dist
from diffusers.hooks.group_offloading import ModuleGroup
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from adacache import AdaCacheConfig
from adacache.conformance.tiny import TINY
from adacache.integrations.diffusers import apply_adacache
from adacache.policies.static import StaticScheduleConfig

WAN = TINY["wan"]
STEPS = 6
EVERY_STEP = StaticScheduleConfig(tuple(range(STEPS)))
SOME = StaticScheduleConfig((0, 1, 3))
# Measures a residual, and reuses what it may.
EAGER = AdaCacheConfig(codebook={"thresholds": [1e9], "rates": [3, 1]}, metric_blocks=(1,))


@pytest.fixture
def pipe() -> Any:
    return WAN.build()


def cached_run(pipe: Any, config: Any, change: Callable[[Any], object], comes_first: bool, **options: Any) -> Any:
    """Latents and computed steps of a run where `change` was made to the transformer before AdaCache or after it."""
    if comes_first:
        change(pipe.transformer)
    with apply_adacache(pipe, config) as handle:
        if not comes_first:
            change(pipe.transformer)
        latents = WAN.run(pipe, **options)
        return latents, handle.trace.computed_steps


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("comes_first", [True, False])
def test_compiled_blocks_are_measured_and_reused_as_plain_ones(pipe, comes_first, fresh_compiler):
    want, steps = cached_run(pipe, EAGER, lambda _: None, True)
    assert len(steps) < STEPS
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    latents, their_steps = cached_run(
        pipe, EAGER, lambda model: model.compile_repeated_blocks(backend=backend), comes_first
    )
    assert compiled and their_steps == steps
    torch.testing.assert_close(latents, want)


@pytest.fixture
def weights_go_away(monkeypatch):
    """There is no second device: weights that are away are NaN."""

    def tensors_of(group: ModuleGroup) -> dict[int, Tensor]:
        found = [tensor for module in group.modules for tensor in [*module.parameters(), *module.buffers()]]
        found += [*group.parameters, *group.buffers]
        return {id(tensor): tensor for tensor in found if tensor.is_floating_point()}

    def away(group: ModuleGroup) -> None:
        kept = vars(group).setdefault("kept", {})
        for key, tensor in tensors_of(group).items():
            if not tensor.isnan().any():
                kept[key] = tensor.data.clone()
                tensor.data.fill_(torch.nan)

    def back(group: ModuleGroup) -> None:
        for key, tensor in tensors_of(group).items():
            if key in vars(group).get("kept", {}):
                tensor.data.copy_(group.kept[key])

    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", away)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", back)


@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize(
    "level", [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 2}]
)
def test_group_offload_fetches_the_weights_that_are_computed_with(pipe, level, comes_first, weights_go_away):
    pytest.importorskip("accelerate")
    want, steps = cached_run(pipe, EAGER, lambda _: None, True)

    def offload(model: nn.Module) -> None:
        model.enable_group_offload(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), **level)

    latents, their_steps = cached_run(pipe, EAGER, offload, comes_first)
    assert any(parameter.isnan().any() for parameter in pipe.transformer.parameters())
    assert their_steps == steps and torch.equal(latents, want)


@pytest.fixture
def two_processes():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("comes_first", [True, False])
def test_diffusers_own_context_parallelism_is_refused(pipe, comes_first, two_processes, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    config = diffusers.ContextParallelConfig(ulysses_degree=2)
    with pytest.raises(ValueError, match="split over processes by enable_parallelism.*use one of the two"):
        cached_run(pipe, SOME, lambda model: model.enable_parallelism(config=config), comes_first)


def test_the_second_of_two_threads_is_computed_without_the_cache(pipe, caplog):
    second = diffusers.WanPipeline(None, None, pipe.vae, copy.deepcopy(pipe.scheduler), pipe.transformer)
    second.set_progress_bar_config(disable=True)
    plain = WAN.run(second, seed=1)
    with apply_adacache(pipe, SOME):
        want = WAN.run(pipe)
    results = {}

    def run_second(*_: Any) -> dict[str, Any]:
        """In the middle of the first one's run, from its callback."""
        if not results:
            thread = threading.Thread(target=lambda: results.update(second=WAN.run(second, seed=1)))
            thread.start()
            thread.join()
        return {}

    with apply_adacache(pipe, SOME) as handle:
        first = WAN.run(pipe, callback_on_step_end=run_second)
        assert handle.trace.computed_steps == [0, 1, 3]
    assert torch.equal(first, want) and torch.equal(results["second"], plain)
    [sentence] = [record.message for record in caplog.records if "thread" in record.message]
    assert "Give each thread its own transformer" in sentence


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_lora_of_any_layer_is_scaled_once(pipe, scale):
    peft = pytest.importorskip("peft")
    names = [name for name, module in pipe.transformer.named_modules() if isinstance(module, nn.Linear)]
    assert any(name.startswith("blocks.") for name in names) and {"proj_out", "condition_embedder.time_proj"} <= {
        *names
    }
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    options = {} if scale is None else {"attention_kwargs": {"scale": scale}}
    plain = WAN.run(pipe, **options)
    latents, _ = cached_run(pipe, EVERY_STEP, lambda _: None, True, **options)
    assert torch.equal(latents, plain)
    assert not torch.equal(plain, WAN.run(WAN.build()))
    cached, steps = cached_run(pipe, SOME, lambda _: None, True, **options)
    assert steps == [0, 1, 3] and not torch.equal(cached, plain)


def test_one_of_two_transformers_that_was_replaced_is_said_when_the_next_run_starts(caplog):
    tiny = TINY["wan22"]
    pipe = tiny.build()
    apply_adacache(pipe, SOME)
    tiny.run(pipe)
    assert "was replaced" not in caplog.text
    pipe.transformer_2 = tiny.build().transformer_2
    tiny.run(pipe)
    assert "the pipeline's transformer was replaced since apply_adacache" in caplog.text
