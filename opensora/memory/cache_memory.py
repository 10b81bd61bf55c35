"""What the cache of a run will hold: told, and compared with what is free, before the models are loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.options import ELEMENT_BYTES
from opensora.config.model_calls import num_model_calls
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.memory.free import free_in_cpu_memory, free_memory
from opensora.memory.shapes import ModelShapes, read_shapes
from opensora.memory.units import size_text

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def check_cache_memory(config: SampleConfig, num_prompts: int, device: torch.device, processes: int = 1) -> None:
    """Log how much memory the cache of a run will take, and refuse the run where that much is not free.

    More is needed for the models and their activations; this is the part that the cache's options decide.

    Args:
        config: with the folders of all weights (``WeightPaths.applied_to``).
        num_prompts: of the whole run; a batch is no larger.
        device: the one the transformer will run on.
        processes: that share a video, and with it what the cache holds.

    Raises:
        ConfigError: the cache does not fit, and the message names the options that make it smaller; or a
            ``config.json`` cannot be used.
    """
    if config.cache is None:
        return
    estimate = cache_bytes(config, read_shapes(config), min(config.batch_size, num_prompts))
    on_gpu = device.type == "cuda" and config.cache.cache_device == "model"
    where = "on the GPU" if on_gpu else "in CPU memory"
    logger.info("cache: %s %s", describe(estimate), where)
    free = free_memory(device) if on_gpu else free_in_cpu_memory()
    own = -(-estimate.total // processes)
    if free is not None and own > free:
        fixes = " or ".join(_fixes(config, on_gpu))
        wanted = f"{size_text(own)} {where}"
        raise ConfigError(f"cache: it would hold {wanted}, where {size_text(free)} are free; less is taken by {fixes}")


def hidden_state_elements(config: SampleConfig, batch: int) -> int:
    """Numbers in the transformer's hidden states (2 * batch, tokens, channels).

    Raises:
        ConfigError: a ``config.json`` of the models cannot be used.
    """
    return read_shapes(config).num_hidden_states(config, batch)


def cache_bytes(config: SampleConfig, shapes: ModelShapes, batch: int) -> CacheBytes | None:
    """The largest cache of a run in batches of ``batch``; None without one."""
    if config.cache is None:
        return None
    return estimate_cache_bytes(
        config.cache,
        num_model_calls(config.scheduler),
        shapes.num_hidden_states(config, batch),
        config.dtype,
        num_blocks=shapes.depth,
        num_latents=shapes.num_latents(config, batch),
    )


def describe(estimate: CacheBytes) -> str:
    """As in "3 tensors of 0.11 GB = 0.34 GB", or "1 tensor of 0.06 GB + 1 of 0.11 GB = 0.17 GB"."""
    groups = {estimate.residual_bytes: estimate.num_residuals}
    if not estimate.total:
        return "no tensors"
    groups[estimate.observed_bytes] = groups.get(estimate.observed_bytes, 0) + estimate.num_observed
    sizes = [(count, size_text(nbytes)) for nbytes, count in groups.items() if count]
    (first, size), *others = sizes
    parts = [f"{first} tensor{'s' if first > 1 else ''} of {size}", *(f"{count} of {size}" for count, size in others)]
    text = " + ".join(parts)
    return text if first == 1 and not others else f"{text} = {size_text(estimate.total)}"


def _fixes(config: SampleConfig, on_gpu: bool) -> list[str]:
    """The options that make the cache smaller, or take it elsewhere."""
    cache = config.cache
    fixes = ["cache.cache_device='cpu'"] if on_gpu else []
    if ELEMENT_BYTES[cache.cache_dtype or config.dtype] > ELEMENT_BYTES["bf16"]:
        fixes.append("cache.cache_dtype='bf16'")
    if cache.bridge.num_residuals > 1 and cache.bridge.kind != "taylor":  # that one belongs to its policy
        fixes.append("cache.bridge='hold'")
    return [*fixes, "a smaller batch_size or video"]
