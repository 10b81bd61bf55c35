"""The temporal half of the v1.2 video VAE: a causal 3-D convolutional autoencoder over the latents of the 2-D VAE.

Shapes: B batch, C latent channels, F frames, T latent frames, H x W latent rows and columns.
Source: Open-Sora v1.2, `opensora/models/vae/vae_temporal.py` (module names follow the published checkpoint).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from opensora.device import exact_convolutions
from opensora.models.vae.layerwise import (
    ResidualLayers,
    Stored,
    TilingConfig,
    convolve,
    normalized_convolution,
    residual_block,
)


@dataclass(frozen=True)
class TemporalVAEConfig:
    """Sizes of the temporal autoencoder; the defaults are those of the published v1.2 checkpoint."""

    in_out_channels: int = 4
    latent_embed_dim: int = 4
    embed_dim: int = 4
    filters: int = 128
    num_res_blocks: int = 4
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    num_groups: int = 32

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TemporalVAEConfig:
        """Read the `vae_temporal` section of a config.json; keys that do not concern the sizes are ignored."""
        known = {field.name for field in fields(cls)}
        chosen = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items() if key in known}
        return cls(**chosen)

    @property
    def time_factor(self) -> int:
        """Frames per latent frame."""
        return 2 ** sum(self.temporal_downsample)


class CausalConv3d(nn.Module):
    """3-D convolution that sees no future frame: all temporal padding (zeros) is in front.

    (B, C, F, H, W) -> (B, C', ceil(F / stride), H, W); `stride` is the temporal one.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True):
        super().__init__()
        self.front = (kernel_size - 1) + (1 - stride)
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=(stride, 1, 1),
            padding=(0, kernel_size // 2, kernel_size // 2),
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 0, 0, 0, self.front, 0)))


class ResBlock(nn.Module):
    """Two normalized 3x3x3 convolutions with a shortcut (1x1x1 where the channel count changes)."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        if in_channels != out_channels:
            self.conv3 = CausalConv3d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv3(x) if hasattr(self, "conv3") else x)


def res_block_row(in_channels: int, out_channels: int, config: TemporalVAEConfig) -> nn.Sequential:
    """`num_res_blocks` blocks of which the first changes the channel count."""
    widths = [in_channels] + [out_channels] * config.num_res_blocks
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return nn.Sequential(*(ResBlock(a, b, config.num_groups) for a, b in pairs))


class Encoder(nn.Module):
    """(B, C, F, H, W) 2-D latents -> (B, 2 * C', T, H, W) features before the moments' 1x1x1 convolution."""

    def __init__(self, config: TemporalVAEConfig):
        super().__init__()
        widths = [config.filters * m for m in config.channel_multipliers]
        self.conv_in = CausalConv3d(config.in_out_channels, config.filters, 3, bias=False)
        inputs = [config.filters, *widths[:-1]]
        self.block_res_blocks = nn.ModuleList(
            [res_block_row(a, b, config) for a, b in zip(inputs, widths, strict=True)]
        )
        self.conv_blocks = nn.ModuleList(
            [
                CausalConv3d(width, width, 3, stride=2) if halve else nn.Identity()
                for width, halve in zip(widths[:-1], config.temporal_downsample, strict=True)
            ]
        )
        self.res_blocks = res_block_row(widths[-1], widths[-1], config)
        self.norm1 = nn.GroupNorm(config.num_groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.latent_embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            x = blocks(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class TimeUpsample(CausalConv3d):
    """Doubles the frame count: channels (c, s) with s innermost become frames 2t + s."""

    def __init__(self, channels: int):
        super().__init__(channels, 2 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)  # (B, C * 2, T, H, W)
        x = x.unflatten(1, (-1, 2)).movedim(2, 3)  # (B, C, T, 2, H, W)
        return x.flatten(2, 3)  # (B, C, 2T, H, W)


class Decoder(nn.Module):
    """(B, C', T, H, W) latents -> (B, C, T * time_factor, H, W) 2-D latents."""

    def __init__(self, config: TemporalVAEConfig):
        super().__init__()
        widths = [config.filters * m for m in config.channel_multipliers]
        self.conv1 = CausalConv3d(config.embed_dim, widths[-1], 3)
        self.res_blocks = res_block_row(widths[-1], widths[-1], config)
        inputs = [*widths[1:], widths[-1]]
        self.block_res_blocks = nn.ModuleList(
            [res_block_row(a, b, config) for a, b in zip(inputs, widths, strict=True)]
        )
        self.conv_blocks = nn.ModuleList(
            [
                TimeUpsample(width) if double else nn.Identity()
                for width, double in zip(widths[1:], config.temporal_downsample, strict=True)
            ]
        )
        self.norm1 = nn.GroupNorm(config.num_groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.in_out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_blocks(self.conv1(x))
        for level in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[level](x)
            if level > 0:
                x = self.conv_blocks[level - 1](x)
        return self.conv_out(F.silu(self.norm1(x)))


class VAETemporal(nn.Module):
    """Causal temporal autoencoder; `VideoAutoencoderPipeline` adds chunking and normalization."""

    def __init__(self, config: TemporalVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.latent_embed_dim, 2 * config.embed_dim, 1)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.embed_dim, 1)
        self.decoder = Decoder(config)

    def padding(self, num_frames: int) -> int:
        """Number of zero frames put in front to make the count a multiple of the temporal factor."""
        return -num_frames % self.config.time_factor

    @exact_convolutions()
    def encode(self, x: Tensor, tiling: TilingConfig | None = None) -> DiagonalGaussianDistribution:
        """(B, C, F, H, W) 2-D latents -> posterior over (B, C', T, H, W), with T = ceil(F / time_factor)."""
        x = F.pad(x, (0, 0, 0, 0, self.padding(x.shape[2]), 0))
        if tiling is not None and tiling.divides(*x.shape[-2:]):
            features = torch.cat([encode_features(self.encoder, one, tiling.tile_size) for one in x.split(1)])
        else:
            features = self.encoder(x)
        return DiagonalGaussianDistribution(self.quant_conv(features))

    @exact_convolutions()
    def decode(self, z: Tensor, num_frames: int, tiling: TilingConfig | None = None) -> Tensor:
        """(B, C', T, H, W) -> (B, C, num_frames, H, W); the frames of the front padding are dropped."""
        z = self.post_quant_conv(z)
        if tiling is not None and tiling.divides(*z.shape[-2:]):
            x = torch.cat([decode_features(self.decoder, one, tiling.tile_size) for one in z.split(1)])
        else:
            x = self.decoder(z)
        return x[:, :, self.padding(num_frames) :]


def decode_features(decoder: Decoder, z: Tensor, tile_size: int) -> Tensor:
    """Compute `decoder(z)` for (B, C', T, H, W), layer by layer in tiles.

    Tiles divide rows and columns only: causal convolutions and group norms need all frames of a chunk.
    """
    features = convolve(decoder.conv1, Stored(z), tile_size)
    features = _run(decoder.res_blocks, features, tile_size)
    for level in reversed(range(len(decoder.block_res_blocks))):
        features = _run(decoder.block_res_blocks[level], features, tile_size)
        if level > 0:
            features = _resample(decoder.conv_blocks[level - 1], features, tile_size)
    return normalized_convolution(decoder.norm1, F.silu, decoder.conv_out, features, tile_size).values


def encode_features(encoder: Encoder, x: Tensor, tile_size: int) -> Tensor:
    """Compute `encoder(x)` for (B, C, F, H, W), in tiles."""
    features = convolve(encoder.conv_in, Stored(x), tile_size)
    for level, blocks in enumerate(encoder.block_res_blocks):
        features = _run(blocks, features, tile_size)
        if level < len(encoder.conv_blocks):
            features = _resample(encoder.conv_blocks[level], features, tile_size)
    features = _run(encoder.res_blocks, features, tile_size)
    return normalized_convolution(encoder.norm1, F.silu, encoder.conv2, features, tile_size).values


def _run(blocks: nn.Sequential, features: Stored, tile: int) -> Stored:
    for block in blocks:
        features = residual_block(_residual_layers(block), features, tile)
    return features


def _resample(layer: nn.Module, features: Stored, tile: int) -> Stored:
    """Halve or double the frames if the level does so."""
    return features if isinstance(layer, nn.Identity) else convolve(layer, features, tile)


def _residual_layers(block: ResBlock) -> ResidualLayers:
    return ResidualLayers(block.norm1, block.conv1, block.norm2, block.conv2, getattr(block, "conv3", None), F.silu)
