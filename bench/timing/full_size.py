"""STDiT3-XL/2 without its weights: random ones, or none at all on the meta device."""

from __future__ import annotations

from typing import Any

import torch

from opensora.datasets.aspect import get_image_size
from opensora.models.stdit import STDiT3, STDiT3Config

RESOLUTIONS = ("480p", "720p")
TWO_SECONDS = 51  # frames
GUIDANCE_HALVES = 2
_TEXT_TOKENS = 300


@torch.no_grad()
def build_xl2(device: str) -> STDiT3:
    """STDiT3-XL/2 in bf16; on the CPU with random weights."""
    with torch.device("meta"):
        model = STDiT3(STDiT3Config()).to(torch.bfloat16).eval()
    if device != "meta":
        model = model.to_empty(device=device)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(std=0.02)
    return model


def xl2_inputs(resolution: str, device: str) -> dict[str, Any]:
    """Arguments of one guided forward pass of STDiT3-XL/2 for a two-second 9:16 video."""
    dtype = torch.bfloat16
    height, width = get_image_size(resolution, "9:16")
    latents = (GUIDANCE_HALVES, 4, TWO_SECONDS // 17 * 5, height // 8, width // 8)
    return {
        "x": torch.randn(latents, dtype=dtype, device=device),
        "timestep": torch.full((GUIDANCE_HALVES,), 500.0, device=device),
        "y": torch.randn(GUIDANCE_HALVES, 1, _TEXT_TOKENS, 4096, dtype=dtype, device=device),
        "fps": torch.full((1,), 24.0, device=device),
        "height": torch.full((1,), float(height), device=device),
        "width": torch.full((1,), float(width), device=device),
    }


def hidden_state_shape(model: STDiT3, latents: torch.Tensor) -> tuple[int, int, int, int]:
    """(B, T, S, C) of the hidden states that latents (B, 4, T, H', W') become."""
    batch, _, frames, rows, columns = latents.shape
    _, patch_rows, patch_columns = model.config.patch_size
    return batch, frames, -(-rows // patch_rows) * -(-columns // patch_columns), model.config.hidden_size
