"""The temporal autoencoder, video by video and layer by layer in tiles (``layerwise``).

Tiles are cut in rows and columns only: a chunk's frames stay together, as its causal convolutions and its group norms
want them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from opensora.models.vae.layerwise import ResidualLayers, Stored, convolve, normalized_convolution, residual_block

if TYPE_CHECKING:
    from opensora.models.vae.vae_temporal import Decoder, Encoder, ResBlock


def decode_features(decoder: Decoder, z: Tensor, tile_size: int) -> Tensor:
    """``decoder(z)`` for (B, C', T, H, W)."""
    features = convolve(decoder.conv1, Stored(z), tile_size)
    features = _run(decoder.res_blocks, features, tile_size)
    for level in reversed(range(len(decoder.block_res_blocks))):
        features = _run(decoder.block_res_blocks[level], features, tile_size)
        if level > 0:
            features = _resample(decoder.conv_blocks[level - 1], features, tile_size)
    return normalized_convolution(decoder.norm1, F.silu, decoder.conv_out, features, tile_size).values


def encode_features(encoder: Encoder, x: Tensor, tile_size: int) -> Tensor:
    """``encoder(x)`` for (B, C, F, H, W)."""
    features = convolve(encoder.conv_in, Stored(x), tile_size)
    for level, blocks in enumerate(encoder.block_res_blocks):
        features = _run(blocks, features, tile_size)
        if level < len(encoder.conv_blocks):
            features = _resample(encoder.conv_blocks[level], features, tile_size)
    features = _run(encoder.res_blocks, features, tile_size)
    return normalized_convolution(encoder.norm1, F.silu, encoder.conv2, features, tile_size).values


def _run(blocks: nn.ModuleList, features: Stored, tile: int) -> Stored:
    for block in blocks:
        features = residual_block(_residual_layers(block), features, tile)
    return features


def _resample(layer: nn.Module, features: Stored, tile: int) -> Stored:
    """Halve or double the frames where the level does so."""
    return features if isinstance(layer, nn.Identity) else convolve(layer, features, tile)


def _residual_layers(block: ResBlock) -> ResidualLayers:
    return ResidualLayers(block.norm1, block.conv1, block.norm2, block.conv2, getattr(block, "conv3", None), F.silu)
