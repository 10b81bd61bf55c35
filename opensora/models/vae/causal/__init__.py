"""Open-Sora-Plan v1.1.0's causal autoencoder: a latent is 4 frames of 8 x 8 pixels; the first frame stands alone.

Source: Open-Sora-Plan v1.1.0, `CausalVAEModelWrapper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from tqdm import tqdm

from opensora.device import exact_convolutions
from opensora.latent_frames import FRAMES_PER_LATENT, causal_latent_frames, causal_num_frames
from opensora.models.parts import share_of
from opensora.models.vae.causal.coders import CausalConv3d, Decoder, Encoder
from opensora.models.vae.causal.config import CausalVAEConfig
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

PIXELS_PER_LATENT = 8
SCALE = 0.18215  # latents are multiplied by it, so that they vary about as much as noise


@dataclass(frozen=True)
class CausalTiling:
    """Sizes of overlapping tiles.

    Attributes:
        tile_size: rows and columns of latents in a tile.
        tile_frames: latent frames of a chunk; neighboring chunks share a frame.
        overlap: fraction of a tile that the next one overlaps.

    Raises:
        ValueError: chunks or tiles would not advance.
    """

    tile_size: int = 32
    tile_frames: int = 17
    overlap: float = 0.25

    def __post_init__(self) -> None:
        if self.tile_frames < 2:
            raise ValueError(
                f"tile_frames must be at least 2, as neighboring chunks share a frame, got {self.tile_frames}"
            )
        if not 0 <= self.overlap < 1 or int(self.tile_size * (1 - self.overlap)) < 1:
            raise ValueError(f"tiles of {self.tile_size} latents with an overlap of {self.overlap} do not advance")

    def covers(self, frames: int, height: int, width: int) -> bool:
        """Whether latents of this size fit into one tile, so that nothing is tiled."""
        return frames <= self.tile_frames and height <= self.tile_size and width <= self.tile_size


@dataclass(frozen=True)
class Side:
    """Lengths along a side of tiles, in the input or the output of a coder (latents or pixels)."""

    step: int  # input: from the beginning of a tile to that of the next
    size: int  # input: length of a tile
    blended: int  # output: rows that are blended with those of the tile before
    kept: int  # output: rows of a tile that the next one does not replace


def decoding_side(tiling: CausalTiling) -> Side:
    """Return the lengths for decoding tiles of latents to tiles of pixels."""
    pixels = tiling.tile_size * PIXELS_PER_LATENT
    blended = int(pixels * tiling.overlap)
    return Side(int(tiling.tile_size * (1 - tiling.overlap)), tiling.tile_size, blended, pixels - blended)


def encoding_side(tiling: CausalTiling) -> Side:
    """Return the lengths for encoding tiles of pixels to tiles of latents."""
    pixels = tiling.tile_size * PIXELS_PER_LATENT
    blended = int(tiling.tile_size * tiling.overlap)
    return Side(int(pixels * (1 - tiling.overlap)), pixels, blended, tiling.tile_size - blended)


def time_chunks(num_frames: int, size: int) -> list[tuple[int, int]]:
    """Return (start, end) of chunks that share one frame with the chunk before; the last one may be short."""
    starts = list(range(0, num_frames, size - 1))
    chunks = [(start, following + 1) for start, following in zip(starts, starts[1:], strict=False)]
    if not chunks:
        return [(0, num_frames)]
    if chunks[-1][1] < num_frames:
        chunks.append((starts[-1], num_frames))
    return chunks


def in_tiles(x: Tensor, side: Side, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `run` to the tiles of `x` (B, C, T, H, W) and put the results together."""
    above: list[Tensor] = []
    rows = []
    for top in range(0, x.shape[3], side.step):
        tiles = [
            run(x[..., top : top + side.size, left : left + side.size]) for left in range(0, x.shape[4], side.step)
        ]
        for column, tile in enumerate(tiles):
            if above:
                fade_in(above[column], tile, side.blended, dim=3)
            if column:
                fade_in(tiles[column - 1], tile, side.blended, dim=4)
        rows.append(torch.cat([tile[..., : side.kept, : side.kept] for tile in tiles], dim=4))
        above = tiles
    return torch.cat(rows, dim=3)


def fade_in(before: Tensor, tile: Tensor, extent: int, dim: int) -> None:
    """Blend the first `extent` rows (or columns) of `tile` in place, linearly from the last ones of `before`."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    if not extent:
        return
    weights = torch.arange(extent, device=tile.device, dtype=tile.dtype) / extent
    weights = weights.view([-1 if axis == dim else 1 for axis in range(tile.ndim)])
    last = before.narrow(dim, before.shape[dim] - extent, extent)
    first = tile.narrow(dim, 0, extent)
    first.copy_(last * (1 - weights) + first * weights)


class CausalVAE(PretrainedModel):
    """Open-Sora-Plan's causal autoencoder, which encodes and decodes videos whole or in tiles.

    Attributes:
        out_channels: channels of latents.
        downsample: pixels per latent, along a side of a frame.
        tiling: sizes of tiles, for what is larger than one; None: never tile. Each tile is normalized on its own, so
            that results differ a little from untiled ones; published videos were decoded in tiles of 256 pixels.
    """

    config_class = CausalVAEConfig
    downsample = PIXELS_PER_LATENT
    unused_tensors = PretrainedModel.unused_tensors | {"loss.*"}  # left from training

    def __init__(self, config: CausalVAEConfig, tiling: CausalTiling | None = None) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = CausalConv3d(2 * config.z_channels, 2 * config.embed_dim, 1)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.z_channels, 1)
        self.tiling = tiling
        self.out_channels = config.embed_dim

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip.

        Raises:
            ValueError: the number of frames is not 4 k + 1.
        """
        if num_frames < 1 or num_frames != causal_num_frames(causal_latent_frames(num_frames)):
            below = causal_num_frames(causal_latent_frames(max(1, num_frames)))
            raise ValueError(
                f"{num_frames} frames cannot be encoded: the first one stands alone, the others are taken by "
                f"{FRAMES_PER_LATENT}; choose {below} or {below + FRAMES_PER_LATENT}"
            )
        return causal_latent_frames(num_frames)

    def get_latent_size(self, input_size: Sequence[int]) -> list[int]:
        """[F, H, W] of a video -> [T, H', W'] of its latents.

        Raises:
            ValueError: the number of frames is not 4 k + 1.
        """
        frames, height, width = input_size
        return [self.latent_frames(frames), height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT]

    @torch.no_grad()
    def posterior(self, x: Tensor) -> DiagonalGaussianDistribution:
        """Videos (B, 3, F, H, W) in [-1, 1] -> distribution of their latents (B, 4, T, H', W'), unscaled.

        Raises:
            ValueError: the shape is another, the number of frames is not 4 k + 1, or sides are not multiples of 8.
        """
        if x.ndim != 5 or x.shape[1] != 3:
            raise ValueError(f"a video must be (B, 3, F, H, W), got {tuple(x.shape)}")
        size = self.get_latent_size(x.shape[2:])
        if x.shape[3] % PIXELS_PER_LATENT or x.shape[4] % PIXELS_PER_LATENT:
            raise ValueError(
                f"frames of {x.shape[3]} x {x.shape[4]} cannot be encoded; sides must be multiples of "
                f"{PIXELS_PER_LATENT}"
            )
        x = x.to(self.device, self.dtype)
        if self.tiling is None or self.tiling.covers(*size):
            result = self._encode(x)
        else:
            chunks = time_chunks(x.shape[2], causal_num_frames(self.tiling.tile_frames))
            side = encoding_side(self.tiling)
            parts = [in_tiles(x[:, :, start:end], side, self._encode) for start, end in chunks]
            # Every chunk but the first begins with the last frame of the one before.
            result = torch.cat([part if i == 0 else part[:, :, 1:] for i, part in enumerate(parts)], dim=2)
        return DiagonalGaussianDistribution(result)

    @torch.no_grad()
    def encode(self, x: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Videos (B, 3, F, H, W) in [-1, 1] -> scaled latents (B, 4, T, H', W').

        Args:
            sample_posterior: draw from the posterior with `generator` instead of taking its mean.

        Raises:
            ValueError: as `posterior`.
        """
        posterior = self.posterior(x)
        return SCALE * (posterior.sample(generator) if sample_posterior else posterior.mode())

    @torch.no_grad()
    def decode_chunks(
        self, z: Tensor, num_frames: int, progress: bool = False, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        """Scaled latents (B, 4, T, H', W') -> pieces (B, 3, f, 8 H', 8 W') of the video, in order, float32.

        Args:
            progress: show a bar that counts tiles.
            share: (i, n) decodes only the i-th of n consecutive parts of the chunks of frames; without tiles there is
                one chunk.

        Raises:
            ValueError: the shape is another, or the number of latent frames is not that of `num_frames`.
        """
        expected = self.latent_frames(num_frames)
        if z.ndim != 5 or z.shape[1] != self.out_channels:
            raise ValueError(f"latents must be (B, {self.out_channels}, T, H, W), got {tuple(z.shape)}")
        if z.shape[2] != expected:
            raise ValueError(f"{num_frames} frames have {expected} latent frames, got {z.shape[2]}")
        z = (z / SCALE).to(self.device, self.dtype)
        if self.tiling is None or self.tiling.covers(*z.shape[2:]):
            if share_of(1, share) == slice(0, 1):
                yield self._decode(z).float()
            return
        all_chunks = list(enumerate(time_chunks(z.shape[2], self.tiling.tile_frames)))
        chunks = all_chunks[share_of(len(all_chunks), share)]
        side = decoding_side(self.tiling)
        tiles = len(chunks) * len(range(0, z.shape[3], side.step)) * len(range(0, z.shape[4], side.step))
        with tqdm(total=tiles, desc="decoding", unit="tile", disable=not progress, leave=False) as bar:
            for number, (start, end) in chunks:
                pixels = in_tiles(z[:, :, start:end], side, partial(self._decode, bar=bar))
                yield (pixels if number == 0 else pixels[:, :, 1:]).float()

    @exact_convolutions()
    def _encode(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))

    @exact_convolutions()
    def _decode(self, z: Tensor, bar: tqdm | None = None) -> Tensor:
        pixels = self.decoder(self.post_quant_conv(z))
        if bar is not None:
            bar.update()
        return pixels


@MODELS.register_module("CausalVAE")
def causal_vae(
    from_pretrained: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    tiling: bool = False,
    **ignored: Any,
) -> CausalVAE:
    """Load the autoencoder of a config's `vae` section."""
    vae = CausalVAE.from_pretrained(from_pretrained, dtype=dtype, device=device)
    vae.tiling = CausalTiling() if tiling else None
    return vae
