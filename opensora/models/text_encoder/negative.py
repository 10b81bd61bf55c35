"""Guidance away from a prompt that the text encoder reads like any other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from opensora.models.text_encoder.t5 import CaptionEncoder


class NegativeTextEncoder:
    """A text encoder together with the prompt that videos are guided away from.

    Args:
        encoder: T5 itself, or what it made of the prompts before (``PreparedText``), of the negative one with padding.
        negative: the prompt; "" guides away from nothing in particular.
    """

    def __init__(self, encoder: CaptionEncoder, negative: str = "") -> None:
        self._encoder = encoder
        self._negative = negative

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``y`` (B, 1, L, caption_channels) features and ``mask`` (B, L)."""
        return self._encoder.encode(prompts)

    def null(self, n: int) -> Tensor:
        """Features of the negative prompt, (n, 1, L, caption_channels), with what the encoder says about padding.

        These models were trained and published with guidance that sees it.
        """
        return self._encoder.encode([self._negative])["y"].expand(n, 1, -1, -1)
