"""Text as a sampler reads it: features of the prompts, and of what their videos are guided away from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from opensora.config.model_families import family_of
from opensora.config.schema import SampleConfig

if TYPE_CHECKING:
    from opensora.models.layers.embeddings import CaptionEmbedder
    from opensora.protocols import VideoModel

_MAX_LINES = 5
_SHOWN_WORDS = 6  # from the beginning of a prompt, and as many from before the cut


class CaptionEncoder(Protocol):
    """Anything that turns prompts into features."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return features `y` (B, 1, L, caption_channels) and the token `mask` (B, L) of prompts.

        An encoder that cuts long prompts also returns `num_chars` (B,), how many of their characters it read.
        """


class TextEncoder(CaptionEncoder, Protocol):
    """A caption encoder that knows what videos are guided away from."""

    def null(self, n: int) -> Tensor:
        """Return the features that `n` videos are guided away from, (n, 1, L, caption_channels)."""


@dataclass(frozen=True)
class EncodedText:
    """The text that a model reads for a batch of videos.

    Attributes:
        y: (B, 1, L, caption_channels).
        mask: (B, L), non-zero at real tokens; on the CPU, so that a model can read the lengths of texts without waiting
            for a device. None if all tokens are real.
        null: features that the videos are guided away from, (B, 1, L, caption_channels).
    """

    y: Tensor
    mask: Tensor | None
    null: Tensor

    @classmethod
    def of(cls, encoder: TextEncoder, prompts: Sequence[str]) -> Self:
        """Encode `prompts`; warnings say which prompts are cut, and where."""
        encoded = encoder.encode(prompts)
        if "num_chars" in encoded:  # else the encoder cuts nothing, or has warned when the text was prepared
            for line in cut_lines("prompt", prompts, encoded["num_chars"].tolist(), encoded["y"].shape[-2]):
                warnings.warn(line, stacklevel=4)
        mask = encoded.get("mask")
        return cls(encoded["y"], None if mask is None else mask.cpu(), encoder.null(len(prompts)))


class CachedTextEncoder:
    """A text encoder that remembers every prompt it has encoded. Results do not depend on the batch.

    Args:
        encoder: encodes prompts that are not remembered yet.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._encoded: dict[str, dict[str, Tensor]] = {}
        self._null: Tensor | None = None

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return features `y` (B, 1, L, caption_channels) and `mask` (B, L)."""
        for prompt in prompts:
            if prompt not in self._encoded:
                self._encoded[prompt] = self._encoder.encode([prompt])
        parts = [self._encoded[prompt] for prompt in prompts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def null(self, n: int) -> Tensor:
        """Features of `n` empty captions, (n, 1, L, caption_channels)."""
        if self._null is None:
            self._null = self._encoder.null(1)
        return self._null.expand(n, *self._null.shape[1:])


@dataclass(frozen=True)
class GuidedTextEncoder:
    """A caption encoder together with the features of the empty caption, which belong to the video model.

    Attributes:
        encoder: T5, or `PreparedText` that T5 encoded before.
        caption_embedder: `STDiT3.y_embedder`, whose buffer (L, caption_channels) is the empty caption. It is read on
            use, as the model may be moved to another device.
    """

    encoder: CaptionEncoder
    caption_embedder: CaptionEmbedder

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode `prompts`, with features on the device and in the dtype of the video model."""
        encoded = self.encoder.encode(prompts)
        return {**encoded, "y": encoded["y"].to(self.caption_embedder.y_embedding)}

    def null(self, n: int) -> Tensor:
        """Features of `n` empty captions, (n, 1, L, caption_channels)."""
        return self.caption_embedder.y_embedding.expand(n, 1, -1, -1)


@dataclass(frozen=True)
class NegativeTextEncoder:
    """A caption encoder together with the prompt that videos are guided away from.

    Attributes:
        encoder: T5, or `PreparedText` that T5 encoded before, the negative prompt with all padding.
        negative: the prompt; "" guides away from nothing in particular.
    """

    encoder: CaptionEncoder
    negative: str = ""

    @cached_property
    def _encoded(self) -> dict[str, Tensor]:
        return self.encoder.encode([self.negative])

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode `prompts`; warn if some are shorter than the negative prompt, which is then cut for them."""
        encoded = self.encoder.encode(prompts)
        if "num_chars" in encoded:
            line = shorter_line(encoded["mask"], self._encoded["mask"][0])
            if line is not None:
                warnings.warn(line, stacklevel=5)
        return encoded

    def null(self, n: int) -> Tensor:
        """Features of the negative prompt, (n, 1, L, caption_channels), including the encoder's output at padding.

        These models were trained and published with guidance that attends to it.
        """
        encoded = self._encoded
        if "num_chars" in encoded:
            num_chars, num_tokens = encoded["num_chars"].tolist(), encoded["y"].shape[-2]
            for line in cut_lines("negative prompt", [self.negative], num_chars, num_tokens):
                warnings.warn(line, stacklevel=5)
        return encoded["y"].expand(n, 1, -1, -1)


def with_guidance(text_encoder: CaptionEncoder | TextEncoder, model: VideoModel, config: SampleConfig) -> TextEncoder:
    """Return `text_encoder` with the features that videos are guided away from; unchanged if it has them already."""
    if hasattr(text_encoder, "null"):
        return text_encoder
    if hasattr(model, "y_embedder"):
        return GuidedTextEncoder(text_encoder, model.y_embedder)
    return NegativeTextEncoder(text_encoder, config.negative_prompt)


def negative_prompts(config: SampleConfig) -> set[str]:
    """Return the negative prompt, to be encoded with all padding; empty for models with a learned empty caption."""
    return set() if "negative_prompt" in family_of(config.model.type).refused else {config.negative_prompt}


def cut_lines(what: str, captions: Iterable[str], num_chars: Sequence[int], num_tokens: int) -> list[str]:
    """Return a line for each caption that the text encoder cuts, which says where; at most six lines.

    Args:
        what: what the captions are, such as "prompt".
        num_chars: for each caption, how many characters were read.
        num_tokens: how many tokens the encoder reads.
    """
    lines: dict[str, str] = {}
    for caption, num in zip(captions, num_chars, strict=True):
        if caption[num:].strip():
            lines[caption] = _cut_line(what, caption, num, num_tokens)
    shown, further = list(lines.values())[:_MAX_LINES], len(lines) - _MAX_LINES
    return shown if further <= 0 else [*shown, f"{further} more of the {what}s are cut in the same way"]


def num_tokens(mask: Tensor) -> int:
    """Count the tokens of a mask (L,) up to the last real one; at least 1, as a model reads at least one."""
    return max(1, int(mask.nonzero().max()) + 1 if mask.any() else 0)


def shorter_line(masks: Iterable[Tensor], negative: Tensor) -> str | None:
    """Return a line about a negative prompt that is longer than some prompts and cut for them; None if it is not.

    Args:
        masks: masks (L,) of the prompts.
        negative: mask (L,) of the negative prompt.
    """
    lengths, length = [num_tokens(mask) for mask in masks], num_tokens(negative)
    shorter = [tokens for tokens in lengths if tokens < length]
    if not shorter:
        return None
    return (
        f"the negative prompt has {length} tokens, more than {len(shorter)} of {len(lengths)} prompts (the shortest "
        f"has {min(shorter)}): each video is guided away from as many of its first tokens as its prompt has, as in "
        "diffusers' LattePipeline; shorten it, or lengthen the prompts"
    )


def _cut_line(what: str, caption: str, num_chars: int, num_tokens: int) -> str:
    read, cut = caption[:num_chars].split(), caption[num_chars:].split()
    last = f"last {len(cut)}" if len(cut) > 1 else "last"
    verb = "are" if len(cut) > 1 else "is"
    shown = read if len(read) <= 2 * _SHOWN_WORDS else [*read[:_SHOWN_WORDS], "...", *read[-_SHOWN_WORDS:]]
    return (
        f"the {last} of {len(caption.split())} words of a {what} {verb} left out, as the text encoder reads "
        f"{num_tokens} tokens: '{' '.join(shown)} | the rest is cut'"
    )
