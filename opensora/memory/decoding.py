"""How much memory the activations of decoding take, found by decoding without storage."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from opensora.memory.live_bytes import peak_live_bytes
from opensora.models.vae.tiling import TilingConfig
from opensora.models.vae.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline

_DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
_TILES_PER_SIDE = 5


def decode_activation_bytes(
    config: VideoAutoencoderConfig,
    batch: int,
    frames: int,
    height: int,
    width: int,
    dtype_bytes: int,
    tiling: TilingConfig | None = None,
) -> int:
    """The most bytes that live tensors of ``decode_chunks`` hold, without weights, latents and pieces already given.

    The decoder runs on the meta device up to its first piece: chunks and pieces after it are at most as large, and
    nothing of theirs outlives them. Work space inside of kernels (cuDNN's, or oneDNN's) comes on top. Many small tiles
    take long to run through and hold hardly less than a few larger ones, which then stand for them.

    Args:
        batch, frames, height, width: of the videos, in pixels.
        dtype_bytes: of one number of weights and activations: 2, 4 or 8.

    Raises:
        ValueError: another ``dtype_bytes``.
    """
    if dtype_bytes not in _DTYPES:
        raise ValueError(f"dtype_bytes must be one of {', '.join(map(str, _DTYPES))}, got {dtype_bytes}")
    with torch.device("meta"):
        vae = VideoAutoencoderPipeline(config).to(_DTYPES[dtype_bytes]).eval()
        size = vae.get_latent_size((frames, height, width))
        z = torch.empty(batch, vae.out_channels, *size, dtype=vae.dtype)
    if tiling is not None:
        vae.tiling = TilingConfig(max(tiling.tile_size, -(-max(size[1:]) // _TILES_PER_SIDE)))

    def first_piece() -> tuple[Iterator[Tensor], Tensor]:
        pieces = vae.decode_chunks(z, frames)
        return pieces, next(pieces)

    return peak_live_bytes(first_piece)
