"""The interfaces that `SamplingPipeline` needs of the models of every family; references and loops need more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


class ModelConfig(Protocol):
    """The sizes of a diffusion transformer."""

    depth: int  # blocks per stream


class VideoModel(Protocol):
    """A diffusion transformer."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype


class VideoAutoencoder(Protocol):
    """An autoencoder between pixels (B, 3, F, H, W) in [-1, 1] and latents (B, C, T, H', W')."""

    out_channels: int  # channels of latents
    downsample: int  # pixels per latent, along a side

    def get_latent_size(self, input_size: Sequence[int]) -> list[int]:
        """[F, H, W] of a video -> [T, H', W'] of its latents."""

    def decode_chunks(
        self, z: Tensor, num_frames: int, progress: bool = False, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        """Yield the video piece by piece, in order, (B, 3, f, H, W) each.

        With a `share` (i, n), yield only the i-th of n consecutive parts of the pieces, unchanged.
        """

    def encode(self, x: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return the latents of videos `x`."""
