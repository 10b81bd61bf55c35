"""Encoder and decoder of the causal autoencoder.

Attribute names are those of the checkpoints.
Source: Open-Sora-Plan v1.1.0, ``CausalVAEModel``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from opensora.models.vae.causal.config import LEVELS, CausalVAEConfig
from opensora.models.vae.causal.layers import (
    AttnBlock3DFix,
    CausalConv3d,
    Downsample,
    ResnetBlock2D,
    ResnetBlock3D,
    SpatialUpsample2x,
    TimeDownsampleRes2x,
    TimeUpsampleRes2x,
    frame_by_frame,
    group_norm,
)

IMAGE_LEVELS = (0, 1)  # of the encoder, where frames are taken alone
SPATIAL_LEVELS = (0, 1, 2)  # of the encoder, that halve rows and columns
TEMPORAL_LEVELS = (1, 2)  # that halve time


class Level(nn.Module):
    """Residual blocks at one resolution, then resampling in space, then in time."""

    def __init__(self, blocks: list[nn.Module], resampling: dict[str, nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self._resampling = tuple(resampling)
        for name, module in resampling.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """A video."""
        for block in self.block:
            x = block(x)
        for name in self._resampling:
            x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """Blocks at the lowest resolution, with attention between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock3D(channels, channels)
        self.attn_1 = AttnBlock3DFix(channels)
        self.block_2 = ResnetBlock3D(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """A video."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Videos to the moments of their latents."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.hidden_size, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.hidden_size
        for level, width in enumerate(config.widths):
            kind = ResnetBlock2D if level in IMAGE_LEVELS else ResnetBlock3D
            blocks = [kind(channels if i == 0 else width, width) for i in range(config.num_res_blocks)]
            resampling: dict[str, nn.Module] = {}
            if level in SPATIAL_LEVELS:
                resampling["downsample"] = Downsample(width)
            if level in TEMPORAL_LEVELS:
                resampling["time_downsample"] = TimeDownsampleRes2x(width)
            self.down.append(Level(blocks, resampling))
            channels = width
        self.mid = Middle(channels)
        self.norm_out = group_norm(channels)
        self.conv_out = CausalConv3d(channels, 2 * config.z_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, F, H, W) -> (B, 2 z_channels, 1 + (F - 1) / 4, H / 8, W / 8)."""
        x = frame_by_frame(self.conv_in, x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latents to videos."""

    def __init__(self, config: CausalVAEConfig) -> None:
        super().__init__()
        channels = config.widths[-1]
        self.conv_in = CausalConv3d(config.z_channels, channels, 3)
        self.mid = Middle(channels)
        levels = []
        for level in reversed(range(LEVELS)):
            width = config.widths[level]
            blocks = [ResnetBlock3D(channels if i == 0 else width, width) for i in range(config.num_res_blocks + 1)]
            resampling: dict[str, nn.Module] = {}
            if level - 1 in SPATIAL_LEVELS:
                resampling["upsample"] = SpatialUpsample2x(width)
            if level - 1 in TEMPORAL_LEVELS:
                resampling["time_upsample"] = TimeUpsampleRes2x(width)
            levels.insert(0, Level(blocks, resampling))
            channels = width
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(channels)
        self.conv_out = CausalConv3d(channels, 3, 3)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_channels, T, H', W') -> (B, 3, 4 T - 3, 8 H', 8 W')."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
