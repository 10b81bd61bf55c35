"""Measure the bytes that the controller holds, beside the estimate and those of caching per block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import prod
from typing import Any

import torch

from adacache import AdaCacheConfig
from adacache.memory import estimate_cache_bytes
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from bench.timing.models import PROMPT, RESOLUTIONS, build_xl2, hidden_state_shape, load_mini, run_steps, xl2_inputs
from opensora.memory.shapes import read_shapes
from opensora.models.stdit import STDiT3
from opensora.pipeline import SamplingPipeline

_UPSTREAM_TENSORS_PER_BLOCK = 2  # attention residual, cross-attention + MLP residual
_STEPS = 30


@contextmanager
def watched_bytes(model: STDiT3) -> Iterator[list[int]]:
    """Yield a list that gets the bytes that a model's controllers hold after each block and each forward pass."""
    held: list[int] = []

    def note(_module: Any, arguments: tuple, keywords: dict, _output: Any) -> None:
        controller = keywords.get("controller") or arguments[-1]
        if controller is not None:
            held.append(controller.nbytes)

    watched = (model, *model.spatial_blocks, *model.temporal_blocks)
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in watched]
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def bytes_in_a_run(pipe: SamplingPipeline, cache: PolicyConfig) -> int:
    """Return the most bytes that the cache holds while one video is sampled."""
    own, pipe.cache = pipe.cache, cache
    try:
        with watched_bytes(pipe.model) as held:
            pipe([PROMPT], progress=False)
    finally:
        pipe.cache = own
    return max(held)


@torch.no_grad()
def measure_memory() -> dict[str, Any]:
    """Compare the most bytes that the controller holds, on the meta device and in the mini model, with the estimate."""
    models = {"bf16": build_xl2("meta"), "fp32": build_xl2("meta").float()}
    result = {resolution: _at_full_size(models, resolution) for resolution in RESOLUTIONS}
    pipe = load_mini()
    elements, mini = read_shapes(pipe.config).num_hidden_states(batch=1), {}
    for name, options in (("adacache", {}), ("fitted", {"bridge": "fitted"}), ("bf16", {"cache_dtype": "bf16"})):
        cache = replace(pipe.cache, **options)
        mini[name] = _beside_promise(cache, elements, pipe.config.dtype, bytes_in_a_run(pipe, cache))
    return {**result, "mini": mini}


def _at_full_size(models: dict[str, STDiT3], resolution: str) -> dict[str, Any]:
    """Measure several caches of STDiT3-XL/2 in the first two steps, after which a run holds no more."""
    inputs = xl2_inputs(resolution, "meta")
    elements = prod(hidden_state_shape(models["bf16"], inputs["x"]))
    per_block = _UPSTREAM_TENSORS_PER_BLOCK * 2 * models["bf16"].config.depth * elements * 2  # bytes in bf16
    result: dict[str, Any] = {"hidden_state_GB": elements * 2 / 1e9, "per_block_caching_GB": per_block / 1e9}
    for name, config, dtype in (
        ("adacache", AdaCacheConfig(), "bf16"),
        ("ca-mlp in 2 blocks", AdaCacheConfig(metric="ca-mlp", metric_blocks=(13, 20)), "bf16"),
        ("fitted", AdaCacheConfig(bridge="fitted"), "bf16"),
        ("static", StaticScheduleConfig((0, 1)), "bf16"),
        ("fp32", AdaCacheConfig(bridge="fitted"), "fp32"),
        ("fp32 kept in bf16", AdaCacheConfig(bridge="fitted", cache_dtype="bf16"), "fp32"),
    ):
        # The run ends with an error when it reads a distance, as a meta tensor has no value.
        with watched_bytes(models[dtype]) as held, suppress(NotImplementedError):
            run_steps(models[dtype], inputs, config, 2, _STEPS)
        result[name] = _beside_promise(config, elements, dtype, max(held))
    return result


def _beside_promise(config: PolicyConfig, elements: int, dtype: str, held: int) -> dict[str, float]:
    promised = estimate_cache_bytes(config, _STEPS, elements, dtype).total
    return {"held_GB": held / 1e9, "promised_over_held": promised / held}
