"""Long videos: how a clip goes on from the one before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opensora.conditioning.masking import append_generated, append_latents
from opensora.config.schema import SampleConfig
from opensora.models.vae.vae import VideoAutoencoderPipeline


def carried_over(config: SampleConfig, vae: VideoAutoencoderPipeline) -> tuple[int, int]:
    """Latent frames and frames at the beginning of a clip that are the end of the one before."""
    latents = config.condition_frame_length
    chunk = vae.config.micro_frame_size or config.num_frames
    return latents, latents // vae.latent_frames(chunk) * chunk


def continued(
    config: SampleConfig,
    vae: VideoAutoencoderPipeline,
    latents: Tensor,
    videos: Sequence[np.ndarray],
    references: list[list[Tensor]],
    strategies: list[str],
    loop: int,
) -> tuple[list[list[Tensor]], list[str]]:
    """References and mask strategies under which clip ``loop`` begins with the end of the one before.

    Its latents are taken over as they are. With ``compat`` they are decoded and encoded again, as upstream does, which
    loses a little in every loop.

    Args:
        latents: (B, 4, T, H', W') of the clip before.
        videos: its frames, (F, H, W, 3) uint8 each.
    """
    length, edit = config.condition_frame_length, config.condition_frame_edit
    if not config.compat:
        return append_latents(latents, references, strategies, loop, length, edit)
    pixels = torch.stack([torch.from_numpy(video).movedim(-1, 0).float() / 127.5 - 1 for video in videos])
    return append_generated(vae, pixels.to(latents.device), references, strategies, loop, length, edit)
