"""What the cache of a run will hold: told, and compared with what is free, before the models are loaded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.options import ELEMENT_BYTES
from opensora.config.schema import SampleConfig
from opensora.utils.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

_GUIDANCE_HALVES = 2  # rows per video: with and without its prompt
# Of the published autoencoder, whose config.json does not name them.
_PIXELS_PER_LATENT = 8
_FRAMES_PER_LATENT = 4
_MEMINFO = Path("/proc/meminfo")


def check_cache_memory(config: SampleConfig, num_prompts: int, device: torch.device) -> None:
    """Log how much memory the cache of a run will take, and refuse the run where that much is not free.

    More is needed for the models and their activations; this is the part that the cache's options decide.

    Args:
        config: with the folders of all weights (``WeightPaths.applied_to``).
        num_prompts: of the whole run; a batch is no larger.
        device: the one the transformer will run on.

    Raises:
        ConfigError: the cache does not fit; the message names the options that make it smaller.
        CheckpointError: a ``config.json`` is missing or not JSON.
    """
    if config.cache is None:
        return
    sizes = model_sizes(config, min(config.batch_size, num_prompts))
    if sizes is None:
        return
    steps = config.scheduler.num_sampling_steps
    estimate = estimate_cache_bytes(
        config.cache, steps, sizes.hidden_states, config.dtype, num_blocks=sizes.depth, num_latents=sizes.latents
    )
    on_gpu = device.type == "cuda" and config.cache.cache_device == "model"
    where = "on the GPU" if on_gpu else "in CPU memory"
    logger.info("cache: %s %s", describe(estimate), where)
    free = _free_on_gpu(device) if on_gpu else free_in_cpu_memory()
    if free is not None and estimate.total > free:
        fixes = " or ".join(_fixes(config, on_gpu))
        wanted = f"{_size(estimate.total)} {where}"
        raise ConfigError(f"cache: it would hold {wanted}, where {_size(free)} are free; less is taken by {fixes}")


@dataclass(frozen=True)
class ModelSizes:
    """Numbers in the transformer's hidden states (2 * batch, tokens, channels), in its input, and its depth."""

    hidden_states: int
    latents: int
    depth: int


def hidden_state_elements(config: SampleConfig, batch: int) -> int | None:
    """``ModelSizes.hidden_states`` of a config."""
    sizes = model_sizes(config, batch)
    return None if sizes is None else sizes.hidden_states


def model_sizes(config: SampleConfig, batch: int) -> ModelSizes | None:
    """The sizes that a cache depends on; None for a config.json without sense.

    Such a one is reported by the model that is built from it.

    Raises:
        CheckpointError: a ``config.json`` is missing or not JSON.
    """
    from opensora.models.checkpoint import read_config
    from opensora.models.stdit.config import STDiT3Config

    vae = read_config(Path(config.vae.from_pretrained))
    values = read_config(Path(config.model.from_pretrained))
    try:
        model = STDiT3Config.from_dict(values)
        frames, height, width = latent_size(config, vae)
        _, rows, columns = model.patch_size
        tokens = frames * -(-height // rows) * -(-width // columns)
        videos = _GUIDANCE_HALVES * batch
        latents = videos * model.in_channels * frames * height * width
        return ModelSizes(videos * tokens * model.hidden_size, latents, model.depth)
    except (AttributeError, TypeError, ValueError):
        return None


def latent_size(config: SampleConfig, vae: dict[str, Any]) -> tuple[int, int, int]:
    """Frames, height and width of one video's latents under an autoencoder with this ``config.json``.

    Like ``VideoAutoencoderPipeline.get_latent_size``, without building one.
    """
    widths = ((vae.get("vae_2d") or {}).get("autoencoder_kl") or {}).get("block_out_channels")
    pixels = _PIXELS_PER_LATENT if widths is None else 2 ** (len(widths) - 1)
    halvings = (vae.get("vae_temporal") or {}).get("temporal_downsample")
    per_latent = _FRAMES_PER_LATENT if halvings is None else 2 ** sum(halvings)
    chunk = config.vae.micro_frame_size or config.num_frames
    full, rest = divmod(config.num_frames, chunk)
    frames = full * -(-chunk // per_latent) + -(-rest // per_latent)
    return frames, config.height // pixels, config.width // pixels


def describe(estimate: CacheBytes) -> str:
    """As in "3 tensors of 0.11 GB = 0.34 GB", or "1 tensor of 0.06 GB + 1 of 0.11 GB = 0.17 GB"."""
    groups = {estimate.residual_bytes: estimate.num_residuals}
    if not estimate.total:
        return "no tensors"
    groups[estimate.observed_bytes] = groups.get(estimate.observed_bytes, 0) + estimate.num_observed
    sizes = [(count, _size(nbytes)) for nbytes, count in groups.items() if count]
    (first, size), *others = sizes
    parts = [f"{first} tensor{'s' if first > 1 else ''} of {size}", *(f"{count} of {size}" for count, size in others)]
    text = " + ".join(parts)
    return text if first == 1 and not others else f"{text} = {_size(estimate.total)}"


def free_in_cpu_memory() -> int | None:
    """Bytes that new allocations can take without swapping; None where the system does not say."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines() if _MEMINFO.is_file() else []
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _free_on_gpu(device: torch.device) -> int:
    import torch

    return torch.cuda.mem_get_info(device)[0]


def _fixes(config: SampleConfig, on_gpu: bool) -> list[str]:
    """The options that make the cache smaller, or take it elsewhere."""
    cache = config.cache
    fixes = ["cache.cache_device='cpu'"] if on_gpu else []
    if ELEMENT_BYTES[cache.cache_dtype or config.dtype] > ELEMENT_BYTES["bf16"]:
        fixes.append("cache.cache_dtype='bf16'")
    if cache.bridge.num_residuals > 1 and cache.bridge.kind != "taylor":  # that one belongs to its policy
        fixes.append("cache.bridge='hold'")
    return [*fixes, "a smaller batch_size or video"]


def _size(nbytes: int) -> str:
    """GB with two decimals, or MB where that would be nothing."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"
