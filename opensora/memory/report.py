"""Before a run starts: log the memory that its stages and its cache will take, and refuse what cannot fit.

Stages, one after the other:
- text: the text encoder alone encodes one caption at a time, and is released;
- references, if there are any: transformer and autoencoder are loaded, and the given clips are encoded;
- denoise: one guided step of a whole batch, and the step cache;
- decode: the autoencoder makes frames of the batch's latents; the cache is freed, the transformer stays.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.options import ELEMENT_BYTES
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.memory.measure import free_in_cpu_memory, size_text
from opensora.memory.shapes import ModelShapes, read_shapes

logger = logging.getLogger(__name__)

LARGE_SHARE = 0.25  # of free memory; an estimate above it is logged as INFO, others as DEBUG
FRAGMENTATION = 0.1  # on top of what tensors take: the allocator's rounding and gaps, and kernels' work space
CARD = 24_000_000_000  # bytes; cards sold as 24 GB have 24.1e9 to 25.8e9
CONTEXT = 500_000_000  # what CUDA and its libraries take on the card
_WIDTHS = (9, 13, 8, 8, 11)  # of the table's columns

Stage = Literal["text", "references", "denoise", "decode"]
_WHERE = {"cuda": "on the GPU", "cpu": "in CPU memory"}


@dataclass(frozen=True)
class StageEstimate:
    """Bytes on the device at the peak of a stage.

    Attributes:
        weights: of all models that are loaded then.
        activations: including latents, texts and pixels.
        cache: the step cache's residuals and what it measures with, as far as they are on the device.
    """

    name: Stage
    weights: int
    activations: int
    cache: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.activations + self.cache


def estimate_stages(
    config: SampleConfig, batch: int, device: Literal["cuda", "cpu"] = "cuda", text: bool = True
) -> list[StageEstimate]:
    """Estimate the stages of a run in batches of `batch` videos; takes a second or two, with tiles two or three.

    Args:
        config: its models may be folders, files or published repositories, whose weights need not be there.
        device: on the CPU, a cache with cache_device="cpu" counts too.
        text: whether the text encoder is loaded at all; it is not if all captions are encoded already.

    Raises:
        ConfigError: the models' sizes are not known (`read_shapes`).
    """
    shapes = read_shapes(config)
    weights = shapes.weight_bytes(config)
    cache = cache_bytes(config, shapes, batch)
    on_device = cache is not None and (device == "cpu" or config.cache.cache_device == "model")
    stages = [StageEstimate("text", *shapes.text_bytes(config))] if text else []
    if config.reference_path:
        stages.append(StageEstimate("references", weights, shapes.reference_activations(config)))
    denoise = shapes.denoise_activations(config, batch)
    stages.append(StageEstimate("denoise", weights, denoise, cache.total if on_device else 0))
    stages.append(StageEstimate("decode", weights, shapes.decode_activations(config, batch)))
    return stages


def check_memory(
    config: SampleConfig, num_videos: int, device: torch.device, text: bool = True, processes: int = 1
) -> list[StageEstimate]:
    """Log the estimated memory of every stage, and refuse a run on a GPU that one of them cannot fit on.

    On the CPU, where the estimate says less about what the system will do and there may be swap, too little memory
    only gives a warning.

    Args:
        config: if samples differ, the run's largest in pixels and frames.
        num_videos: of the whole run; a batch is no larger.
        text: whether the text encoder is loaded.
        processes: how many share a video; what it takes to denoise it is divided by their number.

    Raises:
        ConfigError: a stage does not fit, and the message names the options that make it smaller; or the models' sizes
            are not known.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    stages = estimate_stages(config, min(config.batch_size, num_videos), kind, text)
    stages = [_shared(stage, processes) if stage.name == "denoise" else stage for stage in stages]
    free = free_memory(device)
    level = _log_level(max(stage.total for stage in stages), free)
    logger.log(level, "%s", estimate_line(stages, free, kind))
    if free is None:
        return stages
    largest = max(stages, key=lambda stage: stage.total)
    sentence = (
        f"memory: {largest.name} would take {size_text(largest.total)} {_WHERE[kind]}, where {size_text(free)} are "
        f"free; it takes less with {' or '.join(fixes(config, largest))}"
    )
    if largest.total > free and kind == "cuda":
        raise ConfigError(sentence)
    if largest.total > free:
        logger.warning("WARNING %s", sentence)
    elif largest.total * (1 + FRAGMENTATION) > free and kind == "cuda":
        logger.warning(
            "WARNING memory: %s may not fit, as fragmentation adds to it; it takes less with %s",
            largest.name,
            " or ".join(fixes(config, largest)),
        )
    return stages


def _shared(stage: StageEstimate, processes: int) -> StageEstimate:
    """Return what one of several processes takes: all weights, and a part of the hidden states and residuals."""
    return dataclasses.replace(
        stage, activations=-(-stage.activations // processes), cache=-(-stage.cache // processes)
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that new tensors on `device` can take; None if the system does not say."""
    if device.type != "cuda":
        return free_in_cpu_memory()
    return torch.cuda.mem_get_info(device)[0]


def estimate_line(stages: Sequence[StageEstimate], free: int | None, device: str) -> str:
    """Format "memory, estimated: text 19.14 GB, denoise 6.71 GB (weights 3.20 GB, ...); 24.00 GB are free..."."""
    available = "" if free is None else f"; {size_text(free)} are free {_WHERE[device]}"
    return f"memory, estimated: {', '.join(map(_describe, stages))}{available}"


def _log_level(nbytes: int, free: int | None) -> int:
    """Return the level at which an estimate is logged: DEBUG if it is a small share of free memory."""
    return logging.INFO if free is None or nbytes > LARGE_SHARE * free else logging.DEBUG


def fixes(config: SampleConfig, stage: StageEstimate) -> list[str]:
    """Return the settings that make a stage smaller, the least painful first."""
    return [*_options(config, stage), *([] if config.low_memory else ["--low-memory"]), *_sizes(config, stage)]


def _options(config: SampleConfig, stage: StageEstimate) -> list[str]:
    if stage.name == "text":
        text = config.text_encoder
        options = ["text_encoder.dtype='bf16'"] if text.dtype == "fp32" else []
        if not text.stream:
            options += [] if text.quantize else ["text_encoder.quantize='int8'"]
            options.append(
                "text_encoder.stream=True" if not text.quantize else "text_encoder.stream=True instead of it"
            )
        return options
    if stage.name == "denoise":
        options = ["cache.cache_device='cpu'"] if stage.cache and config.cache.cache_device == "model" else []
        return options + (["dtype='bf16'"] if config.dtype == "fp32" else [])
    vae = config.vae
    tiling = getattr(vae, "tiling", None)  # None: it has no such option
    options = ["vae.tiling=True"] if tiling is False else []
    return options + (["vae.micro_batch_size=1"] if getattr(vae, "micro_batch_size", 1) != 1 and not tiling else [])


def _sizes(config: SampleConfig, stage: StageEstimate) -> list[str]:
    if stage.name == "text":
        return []
    batch = ["batch_size=1"] if config.batch_size > 1 else []
    return [*batch, "a lower resolution", *(["fewer frames"] if stage.name == "denoise" else [])]


def _describe(stage: StageEstimate) -> str:
    cache = f", cache {size_text(stage.cache)}" if stage.cache else ""
    parts = f"weights {size_text(stage.weights)}, activations {size_text(stage.activations)}{cache}"
    return f"{stage.name} {size_text(stage.total)} ({parts})"


def check_cache_memory(config: SampleConfig, num_prompts: int, device: torch.device, processes: int = 1) -> None:
    """Log how much memory the cache of a run will take, and refuse the run where that much is not free.

    More is needed for the models and their activations; this is the part that the cache's options decide.

    Args:
        config: with the folders of all weights (`WeightPaths.applied_to`).
        num_prompts: of the whole run; a batch is no larger.
        device: the one the transformer will run on.
        processes: how many share a video, and with it what the cache holds.

    Raises:
        ConfigError: the cache does not fit, and the message names the options that make it smaller; or a
            `config.json` cannot be used.
    """
    if config.cache is None:
        return
    estimate = cache_bytes(config, read_shapes(config), min(config.batch_size, num_prompts))
    on_gpu = device.type == "cuda" and config.cache.cache_device == "model"
    where = _WHERE["cuda" if on_gpu else "cpu"]
    free = free_memory(device) if on_gpu else free_in_cpu_memory()
    logger.log(_log_level(estimate.total, free), "cache: %s %s", cache_text(estimate), where)
    own = -(-estimate.total // processes)
    if free is not None and own > free:
        fixes = " or ".join(_cache_fixes(config, on_gpu))
        wanted = f"{size_text(own)} {where}"
        raise ConfigError(
            f"cache: it would hold {wanted}, where {size_text(free)} are free; it takes less with {fixes}"
        )


def cache_bytes(config: SampleConfig, shapes: ModelShapes, batch: int) -> CacheBytes | None:
    """Estimate the largest cache of a run in batches of `batch`; None without a cache."""
    if config.cache is None:
        return None
    return estimate_cache_bytes(
        config.cache,
        config.scheduler.num_model_calls,
        shapes.num_hidden_states(config, batch),
        config.dtype,
        num_blocks=shapes.depth,
        num_latents=shapes.num_latents(config, batch),
    )


def cache_text(estimate: CacheBytes) -> str:
    """Format "3 tensors of 0.11 GB = 0.34 GB", or "1 tensor of 0.06 GB + 1 of 0.11 GB = 0.17 GB"."""
    groups = {estimate.residual_bytes: estimate.num_residuals}
    if not estimate.total:
        return "no tensors"
    groups[estimate.observed_bytes] = groups.get(estimate.observed_bytes, 0) + estimate.num_observed
    sizes = [(count, size_text(nbytes)) for nbytes, count in groups.items() if count]
    (first, size), *others = sizes
    parts = [f"{first} tensor{'s' if first > 1 else ''} of {size}", *(f"{count} of {size}" for count, size in others)]
    text = " + ".join(parts)
    return text if first == 1 and not others else f"{text} = {size_text(estimate.total)}"


def _cache_fixes(config: SampleConfig, on_gpu: bool) -> list[str]:
    """Return the settings that make the cache smaller or move it elsewhere."""
    cache = config.cache
    fixes = ["cache.cache_device='cpu'"] if on_gpu else []
    if ELEMENT_BYTES[cache.cache_dtype or config.dtype] > ELEMENT_BYTES["bf16"]:
        fixes.append("cache.cache_dtype='bf16'")
    if cache.bridge.num_residuals > 1 and cache.bridge.kind != "taylor":  # the Taylor bridge belongs to its policy
        fixes.append("cache.bridge='hold'")
    return [*fixes, "a smaller batch_size or video"]


def print_tables(config: SampleConfig, low_memory: SampleConfig) -> None:
    """Print the table of a config, and its table with `--low-memory`."""
    size = f"{config.height} x {config.width} pixels, {config.num_frames} frames"
    print(f"{config.path}: {size}, batches of {config.batch_size}, {config.dtype}")
    print(_table(config))
    if not config.low_memory:
        print("\nwith --low-memory:")
        print(_table(low_memory))


def _table(config: SampleConfig) -> str:
    """Return a line per stage, in GB, and whether the largest one fits a card of 24 GB."""
    stages = estimate_stages(config, config.batch_size)
    lines = [f"{'GB':<12}{'weights':>9}{'activations':>13}{'cache':>8}{'total':>8}{'on a card':>11}"]
    for stage in stages:
        numbers = (stage.weights, stage.activations, stage.cache, stage.total, card_bytes(stage.total))
        lines.append(f"{stage.name:<12}" + "".join(f"{n / 1e9:{w}.2f}" for n, w in zip(numbers, _WIDTHS, strict=True)))
    needed = max(card_bytes(stage.total) for stage in stages)
    verdict = f"fits {CARD / 1e9:.0f} GB" if needed <= CARD else f"does not fit {CARD / 1e9:.0f} GB"
    extra = f"on a card: {FRAGMENTATION:.0%} more for fragmentation and {CONTEXT / 1e9:.1f} GB for CUDA"
    return "\n".join([*lines, f"{extra}; {needed / 1e9:.2f} GB at most: {verdict}"])


def card_bytes(total: int) -> int:
    """Return the bytes that a card must have for tensors of `total` bytes."""
    return round(total * (1 + FRAGMENTATION)) + CONTEXT
