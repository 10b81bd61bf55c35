"""What AdaCache needs to know about a diffusers transformer: names and layouts, as data.

To add a family:

1. Write its `Family` into a file of `families/`: the transformer's class and its lists of blocks, where the output of a
   block's self-attention can be seen after its gate (`residuals.py` has the usual cases), and which arguments of the
   forward have a row for each video. The other fields have defaults that fit most models.
2. Write a tiny pipeline into a file of `adacache/conformance/tiny/`, on which all of
   `tests/adacache/integrations/test_families.py` then runs. It fails if an argument is missing in `rows`, a list is
   missing in `lists`, or the forward does something after a block that a skipped step would lack.
3. Add a row to the table of docs/diffusers.md and, if the model needs nothing but text, to that of
   `examples/diffusers_video.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from adacache.integrations.diffusers.residuals import AttentionResidual
from adacache.sites import Stream

# What a row of a block's hidden states (rows, length, C) holds: all tokens of a video, frame by frame; the tokens of
# one frame; or the tokens at one place of all frames.
Layout = Literal["videos", "frames", "places"]
SPACE_AND_TIME: tuple[Stream, ...] = ("spatial", "temporal")


@dataclass(frozen=True)
class BlockList:
    """One `nn.ModuleList` of blocks.

    Attributes:
        name: name of the transformer's attribute.
        blocks: class names of the blocks in it.
        residual: how to see what a block's self-attention adds, after its gate; None if it cannot be seen separately.
        audio_residual: the same for the sound's self-attention.
        layout: layout of the hidden states that the blocks take and return.
        streams: dimensions along which tokens attend to each other; attention over all tokens counts as both.
    """

    name: str
    blocks: tuple[str, ...]
    residual: AttentionResidual | None = None
    audio_residual: AttentionResidual | None = None
    layout: Layout = "videos"
    streams: tuple[Stream, ...] = SPACE_AND_TIME


@dataclass(frozen=True)
class Family:
    """A transformer class of diffusers.

    Attributes:
        name: name of the models, as users know it.
        transformer: class name of the transformer.
        lists: all lists of blocks, in the order in which their first blocks run, unless the stand-in for all blocks,
            which is put into the first list, has to be in another one.
        rows: arguments of the forward that have one row, or several, for each video of a batch.
        num_frames: (arguments of the forward) -> frames of tokens in a video; None if the latents' shape tells it.
        has_history: whether tokens of earlier frames precede the video's in the hidden states.
        batches_guidance: whether pipelines that name no cache context have both guidance halves in one batch.
        has_own_times: whether pipelines give the transformer other times than the scheduler's, which is then read from
            the pipeline.
        refused_pipelines: names of pipeline classes that cannot be cached, and why.
        returns_text: whether blocks return the text's hidden states after the video's, not the video's alone.
        audio: argument of the forward with the latents (B, length, C) of a sound that is denoised with the picture, ""
            if there is none. Blocks take and return the sound's states after the picture's, and the model returns its
            output after the picture's.
        channels_dim: dimension of the channels in the argument `hidden_states` and in the output.
        out_channels: option of the transformer's config that says how many of the latents' channels are denoised.
        bypass: arguments with which the forward skips the blocks of all lists but the first one, where emptying these
            lists does not work.
        aside: modules that only serve the blocks, such as those that make hints for them. Each comes with a function
            that takes the module's arguments and returns a replacement of its result while the blocks are left out.
        added_after: (the transformer's config) -> numbers of the blocks after which the forward adds something to the
            hidden states.
    """

    name: str
    transformer: str
    lists: tuple[BlockList, ...]
    rows: tuple[str, ...]
    num_frames: Callable[[Mapping[str, Any]], int] | None = None
    has_history: bool = False
    batches_guidance: bool = False
    has_own_times: bool = False
    refused_pipelines: Mapping[str, str] = field(default_factory=dict)
    returns_text: bool = False
    audio: str = ""
    channels_dim: int = 1
    out_channels: str = "out_channels"
    bypass: Mapping[str, Any] = field(default_factory=dict)
    aside: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    added_after: Callable[[Any], Collection[int]] = lambda config: ()

    def check(self, transformer: nn.Module) -> None:
        """Refuse, with a ValueError, a transformer whose blocks are not those of the family."""
        for blocks in self.lists:
            modules = getattr(transformer, blocks.name, None)
            if not isinstance(modules, nn.ModuleList):
                raise ValueError(
                    f"{self.transformer} has no list of blocks '{blocks.name}'; this version of diffusers is not "
                    "supported, see docs/diffusers.md"
                )
            if any(isinstance(block, OptimizedModule) for block in modules):
                raise ValueError(
                    f"torch.compile wraps blocks in '{blocks.name}' of this {self.transformer}; compile them in place "
                    "instead, with transformer.compile_repeated_blocks()"
                )
            unknown = {type(block).__name__ for block in modules} - set(blocks.blocks)
            if unknown:
                raise ValueError(
                    f"the blocks in '{blocks.name}' of this {self.transformer} are {', '.join(sorted(unknown))}, but "
                    f"AdaCache knows {', '.join(blocks.blocks)}"
                )
        if not len(getattr(transformer, self.lists[0].name)):
            raise ValueError(f"this {self.transformer} has no blocks in '{self.lists[0].name}': nothing can be cached")
        last = len(getattr(transformer, self.lists[-1].name)) - 1
        if last in self.added_after(transformer.config):
            raise ValueError(
                f"this {self.transformer} adds something after its last block, which a left-out step would lack: it "
                "cannot be cached"
            )

    def denoised(self, transformer: nn.Module, arguments: Mapping[str, Any]) -> list[Tensor]:
        """Return what a call denoises, one tensor (B, C, T, ...) for each modality.

        These are the first channels of the argument `hidden_states`, which precede those of an image, and the latents
        of a sound if there is one.
        """
        latents = arguments["hidden_states"].movedim(self.channels_dim, 1)
        count = min(latents.shape[1], transformer.config.get(self.out_channels) or latents.shape[1])
        audio = arguments.get(self.audio)
        return [latents[:, :count], *([] if audio is None else [audio.movedim(2, 1)])]

    def size(self, transformer: nn.Module, arguments: Mapping[str, Any]) -> tuple[int, int | None]:
        """Return how many frames of tokens a call has for a video and, if a history precedes them, how many tokens."""
        if self.num_frames is not None:
            return self.num_frames(arguments), None
        config, latents = transformer.config, arguments["hidden_states"]
        size = config.patch_size
        patch = (config.get("patch_size_t") or 1, size, size) if isinstance(size, int) else size
        shape = latents.select(self.channels_dim, 0).shape[1:]
        frames, height, width = (-(-length // step) for length, step in zip(shape, patch, strict=True))
        return frames, frames * height * width if self.has_history else None

    def num_blocks(self, transformer: nn.Module) -> int:
        """Return how many blocks can be measured, per stream."""
        return next(len(getattr(transformer, blocks.name)) for blocks in self.lists if blocks.residual is not None)


def tokens_of(
    hidden_states: Tensor, layout: Layout, num_videos: int, num_frames: int, num_tokens: int | None = None
) -> Tensor:
    """Return a view of a block's hidden states as (B, T, S, C), of only the last `num_tokens` tokens if given."""
    if layout == "places":
        return hidden_states.unflatten(0, (num_videos, -1)).transpose(1, 2)
    if layout == "frames":
        return hidden_states.unflatten(0, (num_videos, num_frames))
    return hidden_states[:, -(num_tokens or 0) :].unflatten(1, (num_frames, -1))


def from_tokens(tokens: Tensor, hidden_states: Tensor, layout: Layout) -> Tensor:
    """Return tokens (B, N, C) in the layout and shape of `hidden_states`, whose other tokens precede them again."""
    if layout == "places":
        num_frames = hidden_states.shape[1]
        tokens = tokens.unflatten(1, (num_frames, -1)).transpose(1, 2)
    if tokens.numel() < hidden_states.numel():
        return torch.cat([hidden_states[:, : -tokens.shape[1]], tokens], dim=1)
    return tokens.reshape(hidden_states.shape)
