"""How a tiny pipeline is built and called, and the parts that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor, nn

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 6, 16, 8


@dataclass(frozen=True)
class TinyPipeline:
    """How to build a pipeline and what to call it with.

    Attributes:
        lists: names of the transformer's lists of blocks.
        call: arguments of the pipeline's call other than the text.
        masks, pooled: whether the text comes with masks, or with a pooled vector.
        per_video: (seeds) -> further arguments with a row for each video.
        names: usual names of the text's arguments, without "negative_" -> the names that this pipeline has for them.
        calls_per_step: calls of the transformer in each step.
        since: the first version of diffusers in which the pipeline is built and called like this.
    """

    build: Callable[[], Any]
    lists: tuple[str, ...]
    call: dict[str, Any]
    masks: bool = False
    pooled: bool = False
    per_video: Callable[[range], dict[str, Any]] = lambda seeds: {}
    names: Mapping[str, str] = field(default_factory=dict)
    calls_per_step: int = 1
    since: str = "0"

    def run(self, pipe: Any, seed: int = 0, steps: int = 6, batch: int = 1, **changes: Any) -> Tensor:
        """Return the final latents of `batch` videos, whose seeds count up; no video depends on the others."""
        frames = pipe(**{**self.arguments(seed, steps, batch), **changes}).frames
        return frames[-1] if isinstance(frames, list) else frames  # a list grows by section; its last item has all

    def arguments(self, seed: int = 0, steps: int = 6, batch: int = 1) -> dict[str, Any]:
        """Return the arguments of the pipeline's call."""
        seeds = range(seed, seed + batch)
        text: dict[str, Any] = {}
        for half, offset in (("", 0), ("negative_", 1000)):
            own = {"prompt_embeds": self._text(seeds, offset)}
            if self.masks:
                own["prompt_attention_mask"] = torch.ones(batch, TEXT_TOKENS, dtype=torch.long)
            if self.pooled:
                own["pooled_prompt_embeds"] = torch.stack([noise(2000 + offset + s, POOLED_WIDTH) for s in seeds])
            text |= {half + self.names.get(name, name): value for name, value in own.items()}
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        text |= self.per_video(seeds)
        return {**self.call, **text, "num_inference_steps": steps, "generator": generators, "output_type": "latent"}

    def _text(self, seeds: range, offset: int) -> Tensor:
        return torch.stack([noise(seed + offset, TEXT_TOKENS, TEXT_WIDTH) for seed in seeds])


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def installed(pipelines: dict[str, TinyPipeline]) -> dict[str, TinyPipeline]:
    """Return the pipelines that this version of diffusers has, whose class is the return annotation of `build`."""
    version = Version(diffusers.__version__)
    return {
        name: tiny
        for name, tiny in pipelines.items()
        if hasattr(diffusers, tiny.build.__annotations__["return"].removeprefix("diffusers."))
        and version >= Version(tiny.since)
    }


def finished(pipe: Any) -> Any:
    """Hide the pipeline's progress bars, put its models into evaluation mode, and return it."""
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.eval().requires_grad_(False)
    return pipe


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Make every weight of a model random, and return it: weights that are initially zero would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.normal_(0, scale, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model


def rebuilt(transformer: Any, **changes: Any) -> Any:
    """Return a transformer of the same class with random weights and some options changed."""
    options = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    return randomize(type(transformer)(**{**options, **changes}))


SMALL = {"height": 64, "width": 64}
IMAGE = Image.new("RGB", (64, 64), (200, 30, 60))
VIDEO = [Image.new("RGB", (64, 64), (20 * number, 30, 60)) for number in range(9)]


def other(tiny: TinyPipeline, build: Callable[[], Any], leave_out: str = "", **call: Any) -> TinyPipeline:
    """Return `tiny` with another pipeline to build, without one argument of its call, and with others changed."""
    own = {name: value for name, value in tiny.call.items() if name != leave_out}
    return replace(tiny, build=build, call={**own, **call})
