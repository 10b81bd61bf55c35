"""Layers of STDiT3 other than attention: patches, positions, timestep, frame rate and text; modulation and the MLP.

Source: Open-Sora v1.2, `opensora/models/layers/blocks.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SINUSOID_DIM = 256
MAX_PERIOD = 10_000.0
NORM_EPS = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply layer norm without weights, then `shift` and `scale`, which broadcast to `x` (B, T, S, C)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


class Mlp(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class PatchEmbed3D(nn.Module):
    """Latents (B, C_in, T, Hx, Wx) -> tokens (B, T, S, C), frame by frame, row by row."""

    def __init__(self, patch_size: tuple[int, int, int], in_channels: int, dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches; sides that are not a multiple of the patch are zero-padded at the right and bottom."""
        padding = [-size % patch for size, patch in zip(x.shape[2:], self.patch_size, strict=True)]
        if any(padding):
            x = F.pad(x, (0, padding[2], 0, padding[1], 0, padding[0]))
        # A convolution whose stride is its kernel size is a linear layer over patches. Computed as one, its result is
        # channels-last in memory, the layout that all blocks add to, and float32 keeps all bits on a GPU, too.
        for axis in (4, 3, 2):
            patch = self.patch_size[axis - 2]
            x = x.unflatten(axis, (x.shape[axis] // patch, patch))
        patches = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(2, 3)  # (B, T, S, C_in * patch)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class SinusoidEmbedder(nn.Module):
    """A number per sample (timestep 0..1000, or frames per second) -> (B, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, values: Tensor) -> Tensor:
        dtype = self.mlp[0].weight.dtype
        # The published weights were trained on values rounded to the model's dtype.
        values = values.to(dtype).float()
        half = SINUSOID_DIM // 2
        steps = torch.arange(half, device=values.device, dtype=torch.float32)
        args = values[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / half)
        return self.mlp(torch.cat([args.cos(), args.sin()], dim=-1).to(dtype))


class CaptionEmbedder(nn.Module):
    """Text features (B, L, caption_channels) -> (B, L, C); holds the learned features of the empty caption."""

    def __init__(self, caption_channels: int, dim: int, max_length: int):
        super().__init__()
        self.y_proj = Mlp(caption_channels, dim, dim)
        self.register_buffer("y_embedding", torch.randn(max_length, caption_channels) / caption_channels**0.5)

    def forward(self, y: Tensor) -> Tensor:
        return self.y_proj(y)


def select_tokens(y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Left-align the real tokens of every sample and cut the padding they share.

    Args:
        y: (B, L, caption_channels).
        mask: (Bm, L), non-zero at real tokens; its rows are repeated when B is a multiple of Bm (guidance). Best on the
            CPU: reading the lengths from a GPU would make every step wait for it.

    Returns:
        (B, L', caption_channels) with L' the length of the longest sample, and a (B, L') bool mask, or None when all
        samples have that length.

    Raises:
        ValueError: the number of mask rows does not divide the batch, or a sample has no token at all.
    """
    if mask is None:
        return y, None
    if len(y) % len(mask):
        raise ValueError(f"text mask has {len(mask)} rows, which do not divide the batch of {len(y)}")
    mask = (mask != 0).repeat(len(y) // len(mask), 1)
    lengths = mask.sum(1).tolist()
    if min(lengths) == 0:
        raise ValueError("text mask selects no token of a sample; every caption needs at least one")
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(lengths)]
    text_mask = None if min(lengths) == max(lengths) else mask.gather(1, order).to(y.device, non_blocking=True)
    order = order.to(y.device, non_blocking=True)
    return y.gather(1, order[..., None].expand(-1, -1, y.shape[-1])), text_mask


def position_embedding(rows: int, columns: int, dim: int, scale: Tensor) -> Tensor:
    """2-D sine-cosine position embedding (rows * columns, dim) in float32, the same for every frame.

    Args:
        scale: 0-dim tensor, the square root of the video's area over the side that the model was made for.
    """
    base = round(math.sqrt(rows * columns))
    quarter = dim // 4
    steps = torch.arange(quarter, device=scale.device, dtype=torch.float32)
    frequencies = MAX_PERIOD ** (-2 * steps / (dim // 2))

    def axis(count: int) -> Tensor:
        positions = torch.arange(count, device=scale.device, dtype=torch.float32) / scale * base / count
        angles = torch.outer(positions, frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (count, dim / 2)

    by_column = axis(columns).expand(rows, -1, -1)
    by_row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=-1).flatten(0, 1)
