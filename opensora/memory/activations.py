"""The most bytes that tensors besides weights hold in each stage of Open-Sora, by running the models without storage.

The transformer runs at two pairs of blocks: a pair frees all it made but its output, so that more pairs take longer
and no more memory. Kernels' own work space is not seen (``live_bytes``), and neither is what the step cache holds
(``adacache.memory``); its temporaries, a few hidden states, live when a block has freed larger ones.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from opensora.config.schema import SampleConfig
from opensora.dtypes import DTYPES
from opensora.memory.decoding import decode_activation_bytes
from opensora.memory.live_bytes import peak_live_bytes
from opensora.memory.shapes import GUIDANCE_HALVES, OpenSoraShapes
from opensora.models.stdit import STDiT3
from opensora.models.vae import TilingConfig, VideoAutoencoderPipeline

_DEPTH = 2


def denoise_activations(config: SampleConfig, shapes: OpenSoraShapes, batch: int) -> int:
    """Of one guided step of ``batch`` videos, with their latents and texts."""
    dtype = DTYPES[config.dtype]
    transformer = replace(shapes.transformer, depth=min(_DEPTH, shapes.transformer.depth))
    size = shapes.latent_size(config)
    masked = bool(config.reference_path) or config.loop > 1
    with torch.device("meta"):
        model = STDiT3(transformer).to(dtype).eval()

    def step() -> None:
        with torch.device("meta"):
            z = torch.empty(batch, transformer.in_channels, *size, dtype=dtype)
            y = torch.empty(batch, 1, transformer.model_max_length, transformer.caption_channels, dtype=dtype)
            per_row = torch.empty(GUIDANCE_HALVES * batch)
            x_mask = torch.empty(GUIDANCE_HALVES * batch, size[0], dtype=torch.bool) if masked else None
            video = {"fps": per_row, "height": per_row, "width": per_row}
            texts = torch.cat([y] * GUIDANCE_HALVES)
            out = model(torch.cat([z] * GUIDANCE_HALVES), per_row, texts, x_mask=x_mask, **video)
        conditional, unconditional = out[:, : z.shape[1]].chunk(GUIDANCE_HALVES)
        velocity = unconditional + config.scheduler.cfg_scale * (conditional - unconditional)
        torch.isfinite(z + velocity).all()

    return peak_live_bytes(step)


def decode_activations(config: SampleConfig, shapes: OpenSoraShapes, batch: int) -> int:
    """Of the autoencoder's decoder for ``batch`` videos, with their latents and one piece that is being written."""
    frames, rows, columns = shapes.latent_size(config)
    pixels = 2 ** (len(shapes.vae.autoencoder_kl["block_out_channels"]) - 1)
    height, width = rows * pixels, columns * pixels
    dtype_bytes = DTYPES[config.dtype].itemsize
    size = (config.num_frames, height, width)
    activations = decode_activation_bytes(shapes.vae, batch, *size, dtype_bytes, tiling_of(config))
    latents = batch * shapes.vae.temporal.embed_dim * frames * rows * columns * torch.float32.itemsize
    at_once = min(shapes.vae.micro_batch_size or config.num_frames, config.num_frames)
    piece = batch * 3 * at_once * height * width * dtype_bytes
    return activations + latents + piece


def reference_activations(config: SampleConfig, shapes: OpenSoraShapes) -> int:
    """Of the autoencoder's encoder for a clip as long as the video, with its pixels.

    The halves work one after the other: the spatial one on a few frames at a time, the temporal one on a chunk.
    """
    dtype, tiling = DTYPES[config.dtype], tiling_of(config)
    with torch.device("meta"):
        vae = VideoAutoencoderPipeline(shapes.vae, tiling).to(dtype).eval()
    frames, (_, rows, columns) = config.num_frames, shapes.latent_size(config)
    factor = vae.spatial_vae.downsample
    pixels = 3 * rows * columns * factor**2  # of a frame
    at_once = 1 if tiling else min(shapes.vae.micro_batch_size or frames, frames)
    clip = torch.empty(1, 3, at_once, rows * factor, columns * factor, dtype=dtype, device="meta")
    channels = shapes.vae.temporal.in_out_channels
    chunk = torch.empty(1, channels, min(shapes.vae.micro_frame_size or frames, frames), rows, columns, device="meta")
    spatial = peak_live_bytes(lambda: vae.spatial_vae.encode(clip, False, None, tiling))
    temporal = peak_live_bytes(lambda: vae.temporal_vae.encode(chunk.to(dtype), tiling))
    copies = {torch.float32, dtype}  # as the clip is given, and as the autoencoder wants it
    return frames * pixels * sum(copy.itemsize for copy in copies) + max(spatial, temporal)


def tiling_of(config: SampleConfig) -> TilingConfig | None:
    """How the autoencoder is told to cut frames into tiles."""
    if not config.vae.tiling:
        return None
    return TilingConfig() if config.vae.tile_size is None else TilingConfig(config.vae.tile_size)
