"""Before a run starts: what its stages will take is told, and what cannot fit is refused."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.memory.estimate import StageEstimate, estimate_stages
from opensora.memory.free import free_memory
from opensora.memory.units import size_text

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FRAGMENTATION = 0.1  # of what tensors take: what the allocator rounds up and cannot use, and kernels' work space


def check_memory(
    config: SampleConfig, num_videos: int, device: torch.device, text: bool = True, processes: int = 1
) -> list[StageEstimate]:
    """Log the estimated memory of every stage, and refuse a run on a GPU that one of them cannot fit on.

    On the CPU, where an estimate says less about what the system will do and there may be swap, too little memory is
    only warned of.

    Args:
        config: the largest of a run in pixels and frames, where samples differ.
        num_videos: of the whole run; a batch is no larger.
        text: whether the text encoder is loaded.
        processes: that share a video: what it takes to denoise one is divided by their number.

    Raises:
        ConfigError: a stage does not fit, and the message names the options that make it smaller; or the models' sizes
            are not known.
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    stages = estimate_stages(config, min(config.batch_size, num_videos), kind, text)
    stages = [_shared(stage, processes) if stage.name == "denoise" else stage for stage in stages]
    free = free_memory(device)
    logger.info("%s", estimate_line(stages, free, kind))
    if free is None:
        return stages
    largest = max(stages, key=lambda stage: stage.total)
    sentence = (
        f"memory: {largest.name} would take {size_text(largest.total)} {_WHERE[kind]}, where {size_text(free)} are "
        f"free; less is taken with {' or '.join(fixes(config, largest))}"
    )
    if largest.total > free and kind == "cuda":
        raise ConfigError(sentence)
    if largest.total > free:
        logger.warning("WARNING %s", sentence)
    elif largest.total * (1 + FRAGMENTATION) > free and kind == "cuda":
        logger.warning(
            "WARNING memory: %s may not fit, as fragmentation comes on top; less is taken with %s",
            largest.name,
            " or ".join(fixes(config, largest)),
        )
    return stages


def _shared(stage: StageEstimate, processes: int) -> StageEstimate:
    """What one of several processes takes; each has all weights, and a part of the hidden states and residuals."""
    return dataclasses.replace(
        stage, activations=-(-stage.activations // processes), cache=-(-stage.cache // processes)
    )


_WHERE = {"cuda": "on the GPU", "cpu": "in CPU memory"}


def estimate_line(stages: Sequence[StageEstimate], free: int | None, device: str) -> str:
    """As in "memory, estimated: text 19.14 GB, denoise 6.71 GB (weights 3.20 GB, ...); 24.00 GB are free..."."""
    available = "" if free is None else f"; {size_text(free)} are free {_WHERE[device]}"
    return f"memory, estimated: {', '.join(map(_describe, stages))}{available}"


def fixes(config: SampleConfig, stage: StageEstimate) -> list[str]:
    """What makes a stage smaller, the least painful first."""
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
