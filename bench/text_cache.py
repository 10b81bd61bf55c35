"""Texts are encoded once per bench, so that no timed run contains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class CachedTextEncoder:
    """A text encoder that remembers what it encoded, prompt by prompt: results do not depend on the batch.

    Args:
        encoder: with ``encode(prompts)`` and ``null(n)``, see ``opensora.schedulers.rf.TextEncoder``.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._encoded: dict[str, dict[str, Tensor]] = {}
        self._null: Tensor | None = None

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``y`` (B, 1, L, caption_channels) features and ``mask`` (B, L)."""
        for prompt in prompts:
            if prompt not in self._encoded:
                self._encoded[prompt] = self._encoder.encode([prompt])
        parts = [self._encoded[prompt] for prompt in prompts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def null(self, n: int) -> Tensor:
        """Features of ``n`` empty captions, (n, 1, L, caption_channels)."""
        if self._null is None:
            self._null = self._encoder.null(1)
        return self._null.expand(n, *self._null.shape[1:])
