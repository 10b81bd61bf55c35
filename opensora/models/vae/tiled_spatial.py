"""diffusers' AutoencoderKL, frame by frame and layer by layer in tiles (``layerwise``).

The middle block with its attention over the frame works at the resolution of the latents and is run as it is. The
blocks above it are tiled. Of the decoder's last one, the input after upsampling is the largest map of all (at 720p in
float32: 0.94 GB) and needed only in front of its first residual block, so that it is computed tile by tile twice
rather than kept: an eighth more arithmetic for 40 % less memory.

Shapes: frames (N, 3, 8H, 8W), latents (N, C, H, W).
"""

from __future__ import annotations

from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from torch import Tensor, nn

from opensora.models.vae.layerwise import (
    Computed,
    FeatureMap,
    ResidualLayers,
    Stored,
    convolve,
    normalized_convolution,
    residual_block,
)


def check_tiles(autoencoder: nn.Module) -> None:
    """Refuse an autoencoder with other layers than those that are tiled here.

    Raises:
        ValueError: names the block.
    """
    for block in (*autoencoder.encoder.down_blocks, *autoencoder.decoder.up_blocks):
        if type(block) not in (DownEncoderBlock2D, UpDecoderBlock2D):
            raise ValueError(
                f"a VAE with a {type(block).__name__} cannot be tiled, only the published one's blocks can; set "
                "vae.tiling=False"
            )


def decode_frame(autoencoder: nn.Module, latents: Tensor, tile_size: int) -> Tensor:
    """``autoencoder.decode(latents).sample``, in tiles of ``tile_size`` latents."""
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
    """Moments (N, 2C, H, W) of the posterior that ``autoencoder.encode`` gives, in tiles of ``tile_size`` latents."""
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
