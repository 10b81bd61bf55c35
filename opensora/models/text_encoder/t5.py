"""The T5 text encoder and the pairing of its output with the model's empty caption.

Source: Open-Sora v1.2, ``opensora/models/text_encoder/t5.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from opensora.models.layers.embeddings import CaptionEmbedder
from opensora.models.text_encoder.t5_loading import load_t5
from opensora.registry import MODELS


class CaptionEncoder(Protocol):
    """Whatever turns prompts into features."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``y`` (B, 1, L, caption_channels) and the token ``mask`` (B, L)."""


@MODELS.register_module("t5")
class T5Encoder:
    """Prompts to the last hidden states of a T5 encoder.

    Args:
        from_pretrained: folder or hub repository with a T5 encoder and its tokenizer.
        model_max_length: tokens per prompt; longer prompts are cut, shorter ones padded.
        dtype: floating-point type of the weights; upstream runs float32 whatever the video model's.
        quantize, stream: how the weights are held, see ``load_t5``; streaming changes no result.

    Raises:
        WeightsError: the files are missing, damaged or do not fit their config.json.
        ConfigError: there is no room for what streaming needs.
    """

    def __init__(
        self,
        from_pretrained: str | os.PathLike[str],
        model_max_length: int = 300,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        quantize: str | None = None,
        stream: bool = False,
        **ignored: Any,
    ):
        self.tokenizer, self.model = load_t5(from_pretrained, dtype, device, quantize, stream)
        self.model_max_length = model_max_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Features ``y`` (B, 1, L, caption_channels), not zeroed at padding, and the token ``mask`` (B, L)."""
        tokens = self.tokenizer(
            list(prompts),
            max_length=self.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        mask = tokens["attention_mask"]
        features = self.model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return {"y": features[:, None], "mask": mask}


@dataclass(frozen=True)
class GuidedTextEncoder:
    """A text encoder together with the features of the empty caption, which belong to the video model.

    Attributes:
        encoder: T5 itself, or what it made of the prompts before (``PreparedText``).
        caption_embedder: ``STDiT3.y_embedder``, whose buffer (L, caption_channels) is the empty caption.
    """

    encoder: CaptionEncoder
    caption_embedder: CaptionEmbedder

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Features and mask of ``prompts`` on the device of the video model."""
        encoded = self.encoder.encode(prompts)
        return {
            "y": encoded["y"].to(self._null_embedding),
            "mask": encoded["mask"].to(self._null_embedding.device),
        }

    def null(self, n: int) -> Tensor:
        """Features of ``n`` empty captions, (n, 1, L, caption_channels)."""
        return self._null_embedding.expand(n, 1, -1, -1)

    @property
    def _null_embedding(self) -> Tensor:
        # Read on use: the model may have been moved to another device since.
        return self.caption_embedder.y_embedding
