"""The spatial half of the v1.2 video VAE: diffusers' AutoencoderKL on single frames.

Shapes: B batch, F frames, N = B * F, videos (B, 3, F, 8H, 8W) in [-1, 1], latents (B, 4, F, H, W).
Source: Open-Sora v1.2, ``opensora/models/vae/vae.py`` (VideoAutoencoderKL).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from opensora.models.vae.tiled_spatial import check_tiles, decode_frame, encode_frame
from opensora.models.vae.tiling import TilingConfig
from opensora.utils.compiler import compile_function
from opensora.utils.device import exact_convolutions

SPATIAL_SCALING_FACTOR = 0.18215  # upstream's; the SDXL config's own 0.13025 is not used


class SpatialVAE(nn.Module):
    """diffusers' AutoencoderKL applied to every frame: a few frames at a time or, in tiles, one at a time.

    Frames smaller than a tile are never tiled.
    """

    def __init__(self, autoencoder_kl: dict[str, Any], micro_batch_size: int | None):
        super().__init__()
        from diffusers import AutoencoderKL

        self.module = AutoencoderKL(**autoencoder_kl)
        self.micro_batch_size = micro_batch_size
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.downsample = 2 ** (len(self.module.config.block_out_channels) - 1)

    def compile_decoder(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Decode whole frames by ``torch.compile``; code is generated when the first ones are decoded."""
        self._compiled = compile_function(lambda latents: self.module.decode(latents).sample, backend)

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
        """diffusers' distribution of the latents of (N, 3, 8H, 8W), drawn from alike with and without tiles."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

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
            decoded = [self._decode(batch) for batch in self._micro_batches(frames)]
        else:
            decoded = [decode_frame(self.module, frame, tile) for frame in frames.split(1)]
        return torch.cat(decoded).unflatten(0, (len(x), -1)).transpose(1, 2)

    def _decode(self, frames: Tensor) -> Tensor:
        """(N, 4, H, W) -> (N, 3, 8H, 8W)."""
        if self._compiled is None:
            return self.module.decode(frames).sample
        # The last few frames of a clip are filled up: generated code is for one number of frames.
        missing = max((self.micro_batch_size or 0) - len(frames), 0)
        filled = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
        return self._compiled(filled)[: len(frames)]

    def _tile_size(self, frames: Tensor, tiling: TilingConfig | None, scale: int = 1) -> int | None:
        """Latents per side of a tile, or None where one tile would do; ``scale``: rows of ``frames`` per latent."""
        height, width = frames.shape[-2:]
        if tiling is None or not tiling.divides(height // scale, width // scale):
            return None
        check_tiles(self.module)
        return tiling.tile_size
