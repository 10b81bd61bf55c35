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
from typing import Any, Literal

import torch

from adacache.memory import estimate_cache_bytes
from adacache.options import ELEMENT_BYTES
from adacache.policies.base import PolicyConfig
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
    config: SampleConfig,
    batch: int,
    device: Literal["cuda", "cpu"] = "cuda",
    text: bool = True,
    references: bool | None = None,
) -> list[StageEstimate]:
    """Estimate the stages of a run in batches of `batch` videos; takes a second or two, with tiles two or three.

    Args:
        config: its models may be folders, files or published repositories, whose weights need not be there.
        device: on the CPU, a cache with cache_device="cpu" counts too.
        text: whether the text encoder is loaded at all; it is not if all captions are encoded already.
        references: whether any video has some, as prompts can bring their own; None: if the config names some.

    Raises:
        ConfigError: the models' sizes are not known (`read_shapes`).
    """
    shapes = read_shapes(config)
    weights = shapes.weight_bytes()
    on_device = device == "cpu" or config.cache is None or config.cache.cache_device == "model"
    stages = [StageEstimate("text", *shapes.text_bytes())] if text else []
    references = bool(config.reference_path) if references is None else references
    if references:
        stages.append(StageEstimate("references", weights, shapes.reference_activations()))
    cache = cache_bytes(shapes, batch) if on_device else 0
    stages.append(StageEstimate("denoise", weights, shapes.denoise_activations(batch, references), cache))
    stages.append(StageEstimate("decode", weights, shapes.decode_activations(batch)))
    return stages


def check_memory(
    config: SampleConfig,
    num_videos: int,
    device: torch.device,
    text: bool = True,
    processes: int = 1,
    references: bool | None = None,
) -> list[StageEstimate]:
    """Log the estimated memory of every stage, and refuse a run on a GPU that one of them cannot fit on.

    On the CPU, where the estimate says less about what the system will do and there may be swap, too little memory
    only gives a warning.

    Args:
        config: if samples differ, the run's largest in pixels and frames.
        num_videos: of the whole run; a batch is no larger.
        text: whether the text encoder is loaded.
        processes: how many share a video; what it takes to denoise it is divided by their number.
        references: as for `estimate_stages`.

    Raises:
        ConfigError: a stage, or the cache that a run on a GPU keeps in CPU memory, does not fit, and the message names
            the options that make it smaller; or the models' sizes are not known.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    batch = min(config.batch_size, num_videos)
    stages = estimate_stages(config, batch, kind, text, references)
    stages = [_shared(stage, processes) if stage.name == "denoise" else stage for stage in stages]
    free = free_memory(device)
    largest = max(stages, key=lambda stage: stage.total)
    level = logging.DEBUG if largest.total <= LARGE_SHARE * free else logging.INFO
    logger.log(level, "%s", estimate_line(stages, free, kind))
    if kind == "cuda" and config.cache is not None and config.cache.cache_device == "cpu":
        _check_offloaded(config, -(-cache_bytes(read_shapes(config), batch) // processes))
    found = fixes(config, largest, kind)
    less = f"; it takes less with {' or '.join(found)}" if found else ""
    sentence = (
        f"memory: {largest.name} would take {size_text(largest.total)} {_WHERE[kind]}, where {size_text(free)} are "
        f"free{less}"
    )
    if largest.total > free and kind == "cuda":
        raise ConfigError(sentence)
    if largest.total > free:
        logger.warning("WARNING %s", sentence)
    elif largest.total * (1 + FRAGMENTATION) > free and kind == "cuda":
        logger.warning("WARNING memory: %s may not fit, as fragmentation adds to it%s", largest.name, less)
    return stages


def _check_offloaded(config: SampleConfig, needed: int) -> None:
    """Refuse, with a ConfigError, a cache in CPU memory that does not fit there."""
    free = free_in_cpu_memory()
    if needed > free:
        options = " or ".join([*_cache_options(config), "a smaller batch_size or video"])
        raise ConfigError(
            f"memory: the cache would take {size_text(needed)} in CPU memory, where {size_text(free)} are free; it "
            f"takes less with {options}"
        )


def _shared(stage: StageEstimate, processes: int) -> StageEstimate:
    """Return what one of several processes takes: all weights, and a part of the hidden states and residuals."""
    return dataclasses.replace(
        stage, activations=-(-stage.activations // processes), cache=-(-stage.cache // processes)
    )


def free_memory(device: torch.device) -> int:
    """Return the bytes that new tensors on `device` can take."""
    if device.type != "cuda":
        return free_in_cpu_memory()
    return torch.cuda.mem_get_info(device)[0]


def estimate_line(stages: Sequence[StageEstimate], free: int, device: str) -> str:
    """Format "memory, estimated: text 19.14 GB (weights 19.05 GB, ...), denoise ...; 24.00 GB are free..."."""
    return f"memory, estimated: {', '.join(map(_describe, stages))}; {size_text(free)} are free {_WHERE[device]}"


def fixes(config: SampleConfig, stage: StageEstimate, device: Literal["cuda", "cpu"] = "cuda") -> list[str]:
    """Return the settings that make a stage smaller on that kind of device, the least painful first."""
    options = _options(config, stage, device)
    helps = _OF_LOW_MEMORY.intersection(options) or (stage.name != "text" and config.batch_size > 1)
    return [*options, *(["--low-memory"] if helps and not config.low_memory else []), *_sizes(config, stage)]


_OF_LOW_MEMORY = {
    *("text_encoder.dtype='bf16'", "cache.cache_device='cpu'"),
    *("vae.tiling=True", "vae.micro_batch_size=1"),
}


def _options(config: SampleConfig, stage: StageEstimate, device: str) -> list[str]:
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
        counts = stage.cache and (device == "cpu" or config.cache.cache_device == "model")
        elsewhere = ["cache.cache_device='cpu'"] if device == "cuda" else []
        options = [*elsewhere, *_cache_options(config)] if counts else []
        return options + (["dtype='bf16'"] if config.dtype == "fp32" else [])
    vae = config.vae
    tiling = getattr(vae, "tiling", None)  # None: it has no such option
    options = ["vae.tiling=True"] if tiling is False else []
    return options + (["vae.micro_batch_size=1"] if getattr(vae, "micro_batch_size", 1) != 1 and not tiling else [])


def _cache_options(config: SampleConfig) -> list[str]:
    """Return the settings that make the cache smaller, wherever it is."""
    cache = config.cache
    options = []
    is_wide = ELEMENT_BYTES[cache.cache_dtype or config.dtype] > ELEMENT_BYTES["bf16"]
    if is_wide and _takes(cache, cache_dtype="bf16"):
        options.append("cache.cache_dtype='bf16'")
    if cache.bridge.num_residuals > 1 and cache.bridge.kind != "taylor":  # the Taylor bridge belongs to its policy
        options.append("cache.bridge='hold'")
    return options


def _takes(cache: PolicyConfig, **options: Any) -> bool:
    """Whether a cache's policy has a use for these options."""
    try:
        dataclasses.replace(cache, **options)
    except ValueError:
        return False
    return True


def _sizes(config: SampleConfig, stage: StageEstimate) -> list[str]:
    if stage.name == "text":
        return []
    batch = ["batch_size=1"] if config.batch_size > 1 else []
    return [*batch, "a lower resolution", *(["fewer frames"] if stage.name == "denoise" else [])]


def _describe(stage: StageEstimate) -> str:
    cache = f", cache {size_text(stage.cache)}" if stage.cache else ""
    parts = f"weights {size_text(stage.weights)}, activations {size_text(stage.activations)}{cache}"
    return f"{stage.name} {size_text(stage.total)} ({parts})"


def cache_bytes(shapes: ModelShapes, batch: int) -> int:
    """Estimate the largest cache of a run in batches of `batch`; 0 without a cache."""
    config = shapes.config
    if config.cache is None:
        return 0
    return estimate_cache_bytes(
        config.cache,
        config.scheduler.num_model_calls,
        shapes.num_hidden_states(batch),
        config.dtype,
        num_blocks=shapes.depth,
        num_latents=shapes.num_latents(batch),
    ).total


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
