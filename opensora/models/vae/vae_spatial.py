"""The spatial half of the v1.2 video VAE: diffusers' AutoencoderKL on single frames.

Shapes: B batch, F frames, N = B * F, videos (B, 3, F, 8H, 8W) in [-1, 1], latents (B, 4, F, H, W).
Source: Open-Sora v1.2, `opensora/models/vae/vae.py` (VideoAutoencoderKL).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

from opensora.device import exact_convolutions
from opensora.models.vae.layerwise import (
    Computed,
    FeatureMap,
    ResidualLayers,
    Stored,
    TilingConfig,
    convolve,
    normalized_convolution,
    residual_block,
)

SPATIAL_SCALING_FACTOR = 0.18215  # upstream's; the SDXL config's own 0.13025 is not used


def keep_channels_first(autoencoder: nn.Module) -> None:
    """Make the attention of diffusers' autoencoder return (N, C, H, W) with channels first in memory, on a GPU.

    It works token by token, and its result is a view with channels last. All later layers take over that layout for
    their sums, but PyTorch's group norm on CUDA cannot use it and copies, which takes 30 % of the decoder's time on an
    H100. On the CPU the norm can use it, and channels-last is the faster layout.
    """

    def channels_first(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output.contiguous() if output.is_cuda else output

    for coder in (autoencoder.encoder, autoencoder.decoder):
        for attention in coder.mid_block.attentions:
            if attention is not None:
                attention.register_forward_hook(channels_first)


class SpatialVAE(nn.Module):
    """diffusers' AutoencoderKL applied to every frame: a few frames at a time or, in tiles, one at a time.

    Frames smaller than a tile are never tiled.
    """

    def __init__(self, autoencoder_kl: dict[str, Any], micro_batch_size: int | None):
        super().__init__()
        self.module = AutoencoderKL(**autoencoder_kl)
        keep_channels_first(self.module)
        self.micro_batch_size = micro_batch_size
        self.downsample = 2 ** (len(self.module.config.block_out_channels) - 1)

    def _micro_batches(self, frames: Tensor) -> tuple[Tensor, ...]:
        return frames.split(self.micro_batch_size or len(frames))

    def frames_at_once(self, latents: Tensor, tiling: TilingConfig | None) -> int | None:
        """How many frames of each video are decoded together; None means all."""
        return 1 if self._tile_size(latents, tiling) else self.micro_batch_size

    @exact_convolutions()
    def encode(
        self,
        video: Tensor,
        sample_posterior: bool,
        generator: torch.Generator | None,
        tiling: TilingConfig | None = None,
    ) -> Tensor:
        """(B, 3, F, 8H, 8W) -> (B, 4, F, H, W), scaled."""
        frames = video.transpose(1, 2).flatten(0, 1)  # (B * F, 3, 8H, 8W)
        latents = []
        for batch in self._micro_batches(frames):
            posterior = self._posterior(batch, tiling)
            latents.append(posterior.sample(generator) if sample_posterior else posterior.mode())
        x = torch.cat(latents) * SPATIAL_SCALING_FACTOR
        return x.unflatten(0, (len(video), -1)).transpose(1, 2)

    def _posterior(self, frames: Tensor, tiling: TilingConfig | None) -> Any:
        """Return diffusers' distribution of the latents of (N, 3, 8H, 8W), the same class with and without tiles."""
        tile = self._tile_size(frames, tiling, scale=self.downsample)
        if tile is None:
            return self.module.encode(frames).latent_dist
        moments = [encode_frame(self.module, frame, tile) for frame in frames.split(1)]
        return DiagonalGaussianDistribution(torch.cat(moments))

    @exact_convolutions()
    def decode(self, x: Tensor, tiling: TilingConfig | None = None) -> Tensor:
        """(B, 4, F, H, W) -> (B, 3, F, 8H, 8W)."""
        frames = x.transpose(1, 2).flatten(0, 1) / SPATIAL_SCALING_FACTOR
        tile = self._tile_size(frames, tiling)
        if tile is None:
            decoded = [self.module.decode(batch).sample for batch in self._micro_batches(frames)]
        else:
            decoded = [decode_frame(self.module, frame, tile) for frame in frames.split(1)]
        return torch.cat(decoded).unflatten(0, (len(x), -1)).transpose(1, 2)

    def _tile_size(self, frames: Tensor, tiling: TilingConfig | None, scale: int = 1) -> int | None:
        """Return latents per side of a tile, or None if one tile would do; `scale`: rows of `frames` per latent."""
        height, width = frames.shape[-2:]
        if tiling is None or not tiling.divides(height // scale, width // scale):
            return None
        check_tiles(self.module)
        return tiling.tile_size


def check_tiles(autoencoder: nn.Module) -> None:
    """Refuse an autoencoder with blocks that cannot be tiled here.

    Raises:
        ValueError: a block is of another type; the message names it.
    """
    for block in (*autoencoder.encoder.down_blocks, *autoencoder.decoder.up_blocks):
        if type(block) not in (DownEncoderBlock2D, UpDecoderBlock2D):
            raise ValueError(
                f"a VAE with a {type(block).__name__} cannot be tiled, only the published one's blocks can; set "
                "vae.tiling=False"
            )


def decode_frame(autoencoder: nn.Module, latents: Tensor, tile_size: int) -> Tensor:
    """Compute `autoencoder.decode(latents).sample` of (N, C, H, W), layer by layer in tiles of `tile_size` latents.

    The middle block, with its attention over the frame, works at the resolution of the latents and runs untiled. The
    upsampled input of the last block is the largest map of all (0.94 GB at 720p in float32) and only its first residual
    block reads it, so it is computed twice, tile by tile, rather than kept: an eighth more arithmetic for 40 % less
    memory.
    """
    decoder = autoencoder.decoder
    if autoencoder.post_quant_conv is not None:
        latents = autoencoder.post_quant_conv(latents)
    features: FeatureMap = Stored(decoder.mid_block(decoder.conv_in(latents)))
    tile = tile_size
    for i, block in enumerate(decoder.up_blocks):
        for layers in block.resnets:
            features = residual_block(_residual_layers(layers), features, tile)
        if block.upsamplers is None:
            continue
        [upsample] = block.upsamplers
        tile *= 2
        if i + 2 == len(decoder.up_blocks):
            features = Computed(features, upsample, upscale=2)
        else:
            features = convolve(upsample, features, tile, upscale=2)
    return normalized_convolution(decoder.conv_norm_out, decoder.conv_act, decoder.conv_out, features, tile).values


def encode_frame(autoencoder: nn.Module, frames: Tensor, tile_size: int) -> Tensor:
    """Compute the moments (N, 2C, H, W) of the posterior of `autoencoder.encode`, in tiles of `tile_size` latents."""
    encoder = autoencoder.encoder
    tile = tile_size * 2 ** (len(encoder.down_blocks) - 1)
    features = convolve(encoder.conv_in, Stored(frames), tile)
    for block in encoder.down_blocks:
        for layers in block.resnets:
            features = residual_block(_residual_layers(layers), features, tile)
        if block.downsamplers is not None:
            [downsample] = block.downsamplers
            tile //= 2
            features = convolve(downsample, features, tile, downscale=2)
    features = Stored(encoder.mid_block(features.values))
    moments = normalized_convolution(encoder.conv_norm_out, encoder.conv_act, encoder.conv_out, features, tile).values
    return moments if autoencoder.quant_conv is None else autoencoder.quant_conv(moments)


def _residual_layers(block: nn.Module) -> ResidualLayers:
    """The layers of a diffusers ResnetBlock2D without time embedding."""
    return ResidualLayers(block.norm1, block.conv1, block.norm2, block.conv2, block.conv_shortcut, block.nonlinearity)
