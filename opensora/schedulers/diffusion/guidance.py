"""What guided models predict for prompts of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from opensora.schedulers.steps import TextEncoder

if TYPE_CHECKING:
    from adacache import StepController


class GuidedModel:
    """A model that predicts noise, with its prompts and guidance.

    Text is cut to the longest prompt of the batch, the negative prompt with it, as ``LattePipeline`` does for a single
    prompt. Shorter prompts of a batch are masked, so that a video does not depend on its neighbors: there
    ``LattePipeline`` lets them see zeros instead.

    Args:
        model: called with latents (B, C, T, H, W), times (B,), text (B, L, C'), and where prompts of the batch differ
            in length a mask (B, L) of the tokens to see; gives (B, C or more, T, H, W).
        scale: of guidance; up to 1 there is none, and the model runs without the negative half.
        controller: step cache, handed to the model.
    """

    def __init__(
        self,
        model: nn.Module,
        text_encoder: TextEncoder,
        prompts: Sequence[str],
        scale: float,
        controller: StepController | None = None,
    ) -> None:
        self._model = model
        self._scale = scale
        self._extra = {} if controller is None else {"controller": controller}
        encoded = text_encoder.encode(prompts)
        lengths = [max(1, int(mask.nonzero().max()) + 1 if mask.any() else 0) for mask in encoded["mask"].cpu()]
        longest = max(lengths)
        text = encoded["y"][:, 0, :longest]
        if self._is_guided:
            negative = text_encoder.null(len(prompts))[:, 0, :longest].to(text)
            text, lengths = torch.cat([negative, text]), lengths * 2
        self._text = text.to(model.device, model.dtype)
        self._mask = None
        if min(lengths) < longest:
            visible = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
            self._mask = visible.to(model.device)

    @property
    def _is_guided(self) -> bool:
        return self._scale > 1

    def __call__(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Noise (B, C, T, H, W), float32, in the latents of all videos at a time, a tensor without dimensions."""
        batch = torch.cat([latents, latents]) if self._is_guided else latents
        times = timestep.to(batch.device).expand(len(batch))
        output = self._model(batch.to(self._model.dtype), times, self._text, mask=self._mask, **self._extra).float()
        if self._is_guided:
            negative, positive = output.chunk(2)
            output = negative + self._scale * (positive - negative)
        # Further channels are a variance that these solvers do not use.
        return output[:, : latents.shape[1]]
