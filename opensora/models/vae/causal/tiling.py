"""Tiles that overlap and are faded into each other, as videos of Open-Sora-Plan were published.

Source: Open-Sora-Plan v1.1.0, ``CausalVAEModel.tiled_encode`` and ``tiled_decode``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class CausalTiling:
    """Sizes of tiles.

    Attributes:
        tile_size: rows and columns of latents in a tile.
        tile_frames: latent frames of a chunk; neighboring ones share a frame.
        overlap: share of a tile that the next one begins before its end.

    Raises:
        ValueError: tiles would not move on.
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
            raise ValueError(f"tiles of {self.tile_size} latents with an overlap of {self.overlap} do not move on")

    def covers(self, frames: int, height: int, width: int) -> bool:
        """Whether latents of this size are one tile, which is not treated as such."""
        return frames <= self.tile_frames and height <= self.tile_size and width <= self.tile_size


@dataclass(frozen=True)
class Side:
    """Lengths in what tiles are cut from, and in what is made of them; latents or pixels."""

    step: int  # from the beginning of a tile to that of the next
    size: int  # of a tile
    blended: int  # of the result: rows faded into those of the tile before
    kept: int  # of the result: rows of a tile that the next one does not replace


def decoding_side(tiling: CausalTiling) -> Side:
    """Tiles of latents that become tiles of pixels."""
    pixels = tiling.tile_size * PIXELS_PER_LATENT
    blended = int(pixels * tiling.overlap)
    return Side(int(tiling.tile_size * (1 - tiling.overlap)), tiling.tile_size, blended, pixels - blended)


def encoding_side(tiling: CausalTiling) -> Side:
    """Tiles of pixels that become tiles of latents."""
    pixels = tiling.tile_size * PIXELS_PER_LATENT
    blended = int(tiling.tile_size * tiling.overlap)
    return Side(int(pixels * (1 - tiling.overlap)), pixels, blended, tiling.tile_size - blended)


def time_chunks(num_frames: int, size: int) -> list[tuple[int, int]]:
    """First and last + 1 frame of chunks that share a frame with the one before; the last one may be short."""
    starts = list(range(0, num_frames, size - 1))
    chunks = [(start, following + 1) for start, following in zip(starts, starts[1:], strict=False)]
    if not chunks:
        return [(0, num_frames)]
    if chunks[-1][1] < num_frames:
        chunks.append((starts[-1], num_frames))
    return chunks


def in_tiles(x: Tensor, side: Side, run: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``run`` makes of the tiles of ``x`` (B, C, T, H, W), put together again."""
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
    """Change the first ``extent`` rows (or columns) of ``tile`` in place: from ``before``, step by step to its own."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    if not extent:
        return
    weights = torch.arange(extent, device=tile.device, dtype=tile.dtype) / extent
    weights = weights.view([-1 if axis == dim else 1 for axis in range(tile.ndim)])
    last = before.narrow(dim, before.shape[dim] - extent, extent)
    first = tile.narrow(dim, 0, extent)
    first.copy_(last * (1 - weights) + first * weights)
