"""The caches that are part of diffusers, configured as in its documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from adacache.conformance.cache import Cache, NotApplicable, Setting
from adacache.integrations.diffusers.pipeline import transformers_of

_BY_BATCH = "it decides for the whole batch, by a mean over it"


MakeConfig = Callable[[Any, nn.Module, Setting, int], Any]


def _hook(name: str, make_config: MakeConfig, **options: Any) -> Cache:
    def apply(pipe: Any, setting: Setting, num_steps: int) -> None:
        for transformer in transformers_of(pipe):
            if not hasattr(transformer, "enable_cache"):
                raise NotApplicable(f"{type(transformer).__name__} has no enable_cache")
            try:
                config = make_config(pipe, transformer, setting, num_steps)
            except AttributeError as error:
                if error.obj is not diffusers:
                    raise
                # This version of the package has no such class.
                raise NotApplicable(f"diffusers {diffusers.__version__}: {error}") from error
            transformer.enable_cache(config)

    def remove(pipe: Any, handle: None) -> None:
        for transformer in transformers_of(pipe):
            transformer.disable_cache()

    return Cache(name, f"diffusers {diffusers.__version__}", apply, remove, **options)


def _first_block(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    return diffusers.FirstBlockCacheConfig(threshold={"every": 0.0, "some": 1e9}.get(setting, setting))


def _mag(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    """Return a config with ratios of 1 instead of calibrated ones, which reuses as often as `max_skip_steps` allows."""
    return diffusers.MagCacheConfig(
        mag_ratios=torch.ones(num_steps), num_inference_steps=num_steps, max_skip_steps=0 if setting == "every" else 2
    )


def _taylorseer(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    return diffusers.TaylorSeerCacheConfig(
        cache_interval=1 if setting == "every" else 3, disable_cache_before_step=2, taylor_factors_dtype=torch.float32
    )


def _taylorseer_lite(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    config = _taylorseer(pipe, transformer, setting, num_steps)
    config.use_lite_mode = True
    return config


def _pyramid(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    if not hasattr(type(pipe), "current_timestep"):
        raise NotApplicable(f"{type(pipe).__name__} does not tell its current timestep")
    every = 1 if setting == "every" else 2
    return diffusers.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=every,
        temporal_attention_block_skip_range=every,
        cross_attention_block_skip_range=every,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def _faster(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    layouts = {"CogVideoX": "BFCHW", "Latte": "BCFHW", "Allegro": "BCFHW", "Mochi": "BCFHW"}
    layout = next((layout for name, layout in layouts.items() if type(transformer).__name__.startswith(name)), None)
    if layout is None:
        raise NotApplicable("it is made for latents in frames and for both guidance halves in one call")
    every = setting == "every"
    return diffusers.FasterCacheConfig(
        spatial_attention_block_skip_range=1 if every else 2,
        temporal_attention_block_skip_range=1 if every else 2,
        unconditional_batch_skip_range=1 if every else 5,
        attention_weight_callback=lambda _: 0.3,
        tensor_format=layout,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def _sea(pipe: Any, transformer: nn.Module, setting: Setting, num_steps: int) -> Any:
    """Return a config of order 0, with which a reused call adds one stored residual."""
    if not isinstance(transformer, diffusers.WanTransformer3DModel):
        raise NotApplicable("its own adapters are for Wan text to video and Cosmos 3")
    threshold = {"every": 0.0, "some": 1e9}.get(setting, setting)
    return diffusers.SeaCacheConfig(threshold=threshold, residual_order=0)


HOOKS = (
    _hook("first_block_cache", _first_block, adapts=True, adds="tail", not_promised={"alone": _BY_BATCH}),
    _hook("magcache", _mag, adds="stack"),
    _hook("taylorseer", _taylorseer),
    _hook("taylorseer-lite", _taylorseer_lite),
    _hook("pyramid_attention_broadcast", _pyramid),
    _hook(
        "faster_cache",
        _faster,
        not_promised={"halves": "it makes the half without the prompt out of the other one, as is its method"},
    ),
    _hook("seacache", _sea, adapts=True, adds="stack", not_promised={"alone": _BY_BATCH}),
)
