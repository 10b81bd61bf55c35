"""A pipeline of diffusers with tiny random models: how it is built and called, and what several have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from typing import Any

import diffusers
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor, nn

TEXT_TOKENS, TEXT_WIDTH, POOLED_WIDTH = 6, 16, 8
SMALL = {"height": 64, "width": 64, "num_frames": 9}
IMAGE = Image.new("RGB", (64, 64), (200, 30, 60))
VIDEO = [Image.new("RGB", (64, 64), (20 * number, 30, 60)) for number in range(9)]
# Options of transformers, which have different names for the width of the text.
_OPTIONS = {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "num_layers": 4}
_OPTIONS |= dict.fromkeys(("text_dim", "text_embed_dim", "in_text_dim", "caption_channels"), TEXT_WIDTH)


@dataclass(frozen=True)
class TinyPipeline:
    """How to build a pipeline and what to call it with.

    Attributes:
        pipeline: name of its class in diffusers.
        components: (options of the transformer that differ) -> arguments of the class by name. It gets those that it
            takes, and None for others that it needs, such as text encoders. Weights are made random afterwards.
        call: arguments of the pipeline's call other than the text.
        lists: names of the transformer's lists of blocks.
        options: arguments of `components`.
        finish: (pipe) -> anything; replaces parts of the built pipeline, such as an image encoder.
        masks, pooled: whether the text comes with masks, or with a pooled vector.
        per_video: (seeds) -> further arguments with a row for each video.
        names: usual names of the text's arguments, without "negative_" -> the names that this pipeline has for them.
        calls_per_step: calls of the transformer in each step.
        since: the first version of diffusers in which the pipeline is built and called like this.
    """

    pipeline: str
    components: Callable[..., dict[str, Any]]
    call: dict[str, Any]
    lists: tuple[str, ...] = ("transformer_blocks",)
    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Any], object] = lambda pipe: None
    masks: bool = False
    pooled: bool = False
    per_video: Callable[[range], dict[str, Any]] = lambda seeds: {}
    names: Mapping[str, str] = field(default_factory=dict)
    calls_per_step: int = 1
    since: str = "0"

    def build(self) -> Any:
        """Return the pipeline without progress bars, with random models in evaluation mode."""
        kind = getattr(diffusers, self.pipeline)
        taken = signature(kind).parameters
        needed = {name: None for name, parameter in taken.items() if parameter.default is Parameter.empty}
        given = {name: value for name, value in self.components(**self.options).items() if name in taken}
        pipe = kind(**{**needed, **given})
        pipe.set_progress_bar_config(disable=True)
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module):
                randomize(component, seed=int(name == "transformer_2")).eval().requires_grad_(False)
        self.finish(pipe)
        return pipe

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
    """Return the pipelines that this version of diffusers has."""
    version = Version(diffusers.__version__)
    return {
        name: tiny
        for name, tiny in pipelines.items()
        if hasattr(diffusers, tiny.pipeline) and version >= Version(tiny.since)
    }


def transformer(kind: str, shared: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Return a tiny transformer of a class of diffusers; of the `shared` options it gets those that it has."""
    known = signature(getattr(diffusers, kind)).parameters
    taken = {name: value for name, value in {**_OPTIONS, **(shared or {})}.items() if name in known}
    return getattr(diffusers, kind)(**{**taken, **options})


def flow_matching(shift: float = 1.0) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)


def multistep(shift: float = 3.0) -> Any:
    """Return UniPC for flow matching."""
    return diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction")


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


def other(
    tiny: TinyPipeline, pipeline: str, call: Mapping[str, Any] | None = None, without: str = "", **changes: Any
) -> TinyPipeline:
    """Return `tiny` as another pipeline, with some arguments of its call and fields changed, and one left out."""
    own = {name: value for name, value in tiny.call.items() if name != without}
    return replace(tiny, pipeline=pipeline, call={**own, **(call or {})}, **changes)
