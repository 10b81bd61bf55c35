"""Times of the rectified flow: 1000 is noise, 0 the clean video.

Source: Open-Sora v1.2, ``opensora/schedulers/rf/rectified_flow.py``; the shift by size follows Stable Diffusion 3
(arXiv:2403.03206, section 5.3.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BASE_RESOLUTION = 512 * 512  # pixels of a frame for which the transform changes nothing
CHUNK_FRAMES, CHUNK_LATENTS = 17, 5  # what the VAE makes of a chunk of frames
TIME_FACTOR = 4  # frames per latent within a shorter clip


def latent_frame_count(num_frames: Tensor) -> Tensor:
    """Latent frames as the timestep transform counts them, for pixel frame counts (B,).

    Clips of 17 frames and more count in whole chunks only, as the published model was trained. For 2 to 16 frames
    upstream would count none and divide by zero; the real number of latent frames is used instead.
    """
    chunks = num_frames // CHUNK_FRAMES * CHUNK_LATENTS
    return torch.where(num_frames < CHUNK_FRAMES, torch.ceil(num_frames / TIME_FACTOR), chunks)


def timestep_transform(
    t: Tensor, size: Mapping[str, Tensor], num_timesteps: int = 1000, base_resolution: int = BASE_RESOLUTION
) -> Tensor:
    """Shift timesteps towards the noise for larger and longer videos.

    Args:
        t: (B,) float32, 0..num_timesteps.
        size: ``height``, ``width`` and ``num_frames`` in pixels and frames, (B,) each. Their dtype decides the
            arithmetic of the ratio, as upstream.
        base_resolution: pixels of an image whose timesteps stay as they are.
    """
    height, width, num_frames = (size[key] for key in ("height", "width", "num_frames"))
    if height.dtype == torch.float16:  # an area of 256 x 256 is more than it can hold
        height, width, num_frames = height.float(), width.float(), num_frames.float()
    ratio = (height * width / base_resolution).sqrt() * latent_frame_count(num_frames).sqrt()
    u = t / num_timesteps
    return ratio * u / (1 + (ratio - 1) * u) * num_timesteps


def add_noise(clean: Tensor, noise: Tensor, t: Tensor, num_timesteps: int = 1000) -> Tensor:
    """The point at time ``t`` (B,) on the straight line from ``clean`` to ``noise``, both (B, C, T, H, W)."""
    u = (t / num_timesteps).view(-1, *[1] * (clean.ndim - 1))
    return (1 - u) * clean + u * noise
