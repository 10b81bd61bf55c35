"""Encoder and decoder of the causal autoencoder: their convolutions read no later frames.

Later frames still count in the statistics of norms and, in the decoder, in the interpolation of `TimeUpsampleRes2x`.

Videos are (B, C, T, H, W). Attribute names are those of the checkpoints.
Source: Open-Sora-Plan v1.1.0, `CausalVAEModel` and `opensora/models/ae/videobase/modules`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opensora.models.vae.causal.config import LEVELS, CausalVAEConfig


class CausalConv3d(nn.Module):
    """A convolution that reads no later frames; the first frame is repeated in front as padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int, int]) -> None:
        super().__init__()
        kernel = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        return self.conv(first_repeated(x, self.conv.kernel_size[0] - 1))


def first_repeated(x: Tensor, count: int) -> Tensor:
    """Return a video with `count` more copies of its first frame in front."""
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x], dim=2) if count else x


def frame_by_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer for images to every frame of a video."""
    frames = layer(x.movedim(2, 1).flatten(0, 1))
    return frames.unflatten(0, (len(x), -1)).movedim(1, 2)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the group norm that this autoencoder uses; on videos, its statistics run over time, too."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock3D(nn.Module):
    """Two causal 3-D convolutions with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, conv: Callable[..., nn.Module] = CausalConv3d) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = conv(in_channels, out_channels, 3)
        self.norm2 = group_norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + hidden


class ResnetBlock2D(ResnetBlock3D):
    """The same with 2-D convolutions, applied to every frame alone."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, partial(nn.Conv2d, padding="same"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W)."""
        return frame_by_frame(super().forward, x)


class AttnBlock3DFix(nn.Module):
    """Single-head attention between the places of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (CausalConv3d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        hidden = self.norm(x)
        # (B, C, T, H, W) -> (B T, H W, C)
        query, key, value = (
            layer(hidden).movedim(2, 1).flatten(3).mT.flatten(0, 1) for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.unflatten(0, (len(x), -1)).mT.unflatten(3, x.shape[3:]).movedim(1, 2)
        return x + self.proj_out(attended)


class Downsample(nn.Module):
    """Halves rows and columns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, H / 2, W / 2); zeros are added below and to the right only."""
        return frame_by_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


class SpatialUpsample2x(nn.Module):
    """Doubles rows and columns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


class TimeDownsampleRes2x(nn.Module):
    """T frames -> (T - 1) // 2 + 1: a learned mixture of their mean and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, (T - 1) // 2 + 1, H, W)."""
        x = first_repeated(x, 2)
        share = torch.sigmoid(self.mix_factor)
        return share * F.avg_pool3d(x, (3, 1, 1), stride=(2, 1, 1)) + (1 - share) * self.conv(x)


class TimeUpsampleRes2x(nn.Module):
    """T frames -> 2 T - 1: a learned mixture of interpolated frames and a convolution of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3)
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, 2 T - 1, H, W); the first frame stands alone."""
        if x.shape[2] > 1:
            later = F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1), mode="trilinear")
            x = torch.cat([x[:, :, :1], later], dim=2)
        share = torch.sigmoid(self.mix_factor)
        return share * x + (1 - share) * self.conv(x)


IMAGE_LEVELS = (0, 1)  # levels of the encoder whose residual blocks treat every frame alone
SPATIAL_LEVELS = (0, 1, 2)  # levels of the encoder that halve rows and columns
TEMPORAL_LEVELS = (1, 2)  # levels of the encoder that halve time


class Level(nn.Module):
    """Residual blocks at one resolution, then resampling in space, then in time."""

    def __init__(self, blocks: list[nn.Module], resampling: dict[str, nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self._resampling = tuple(resampling)
        for name, module in resampling.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T', H', W')."""
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
        """(B, C, T, H, W) -> (B, C, T, H, W)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Encodes videos to the moments of their latents."""

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
    """Decodes latents to videos."""

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
