"""The v1.2 video VAE: a 2-D autoencoder per frame, then a causal temporal autoencoder per chunk of frames.

Shapes: B batch, F frames, T latent frames, videos (B, 3, F, 8H, 8W) in [-1, 1], latents (B, 4, T, H, W).
Source: Open-Sora v1.2, ``opensora/models/vae/vae.py`` (OpenSoraVAE_V1_2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from opensora.models.checkpoint import PretrainedModel
from opensora.models.vae.vae_temporal import TemporalVAEConfig, VAETemporal
from opensora.registry import MODELS

SPATIAL_SCALING_FACTOR = 0.18215  # upstream's; the SDXL config's own 0.13025 is not used

# The 2-D autoencoder of the published checkpoint, whose config.json only names the repository it came from.
SDXL_AUTOENCODER_KL = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


@dataclass(frozen=True)
class VideoAutoencoderConfig:
    """What ``config.json`` of a v1.2 VAE says.

    Attributes:
        autoencoder_kl: arguments of diffusers' AutoencoderKL.
        micro_frame_size: frames per temporal chunk; None encodes the whole clip at once.
        micro_batch_size: frames the 2-D autoencoder handles at a time; None means all.
        shift, scale: per-channel normalization of the latents.
    """

    autoencoder_kl: dict[str, Any] = field(default_factory=lambda: dict(SDXL_AUTOENCODER_KL))
    temporal: TemporalVAEConfig = TemporalVAEConfig()
    micro_frame_size: int | None = 17
    micro_batch_size: int | None = 4
    shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98)
    scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VideoAutoencoderConfig:
        """Read the published layout (sections ``vae_2d`` and ``vae_temporal``)."""
        vae_2d = values.get("vae_2d") or {}
        return cls(
            autoencoder_kl=dict(vae_2d.get("autoencoder_kl") or SDXL_AUTOENCODER_KL),
            temporal=TemporalVAEConfig.from_dict(values.get("vae_temporal") or {}),
            micro_frame_size=values.get("micro_frame_size", cls.micro_frame_size),
            micro_batch_size=values.get("micro_batch_size", vae_2d.get("micro_batch_size", cls.micro_batch_size)),
            shift=tuple(values.get("shift", cls.shift)),
            scale=tuple(values.get("scale", cls.scale)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The published layout, with the 2-D autoencoder's widths added."""
        return {
            "architectures": ["VideoAutoencoderPipeline"],
            "model_type": "VideoAutoencoderPipeline",
            "micro_frame_size": self.micro_frame_size,
            "shift": list(self.shift),
            "scale": list(self.scale),
            "vae_2d": {
                "type": "VideoAutoencoderKL",
                "micro_batch_size": self.micro_batch_size,
                "autoencoder_kl": self.autoencoder_kl,
            },
            "vae_temporal": {"type": "VAE_Temporal", **vars(self.temporal)},
        }


class SpatialVAE(nn.Module):
    """diffusers' AutoencoderKL applied to every frame, a few frames at a time."""

    def __init__(self, autoencoder_kl: dict[str, Any], micro_batch_size: int | None):
        super().__init__()
        from diffusers import AutoencoderKL

        self.module = AutoencoderKL(**autoencoder_kl)
        self.micro_batch_size = micro_batch_size
        self.downsample = 2 ** (len(self.module.config.block_out_channels) - 1)

    def _micro_batches(self, frames: Tensor) -> tuple[Tensor, ...]:
        return frames.split(self.micro_batch_size or len(frames))

    def encode(self, video: Tensor, sample_posterior: bool, generator: torch.Generator | None) -> Tensor:
        """(B, 3, F, 8H, 8W) -> (B, 4, F, H, W), scaled."""
        frames = video.transpose(1, 2).flatten(0, 1)  # (B * F, 3, 8H, 8W)
        latents = []
        for batch in self._micro_batches(frames):
            posterior = self.module.encode(batch).latent_dist
            latents.append(posterior.sample(generator) if sample_posterior else posterior.mode())
        x = torch.cat(latents) * SPATIAL_SCALING_FACTOR
        return x.unflatten(0, (len(video), -1)).transpose(1, 2)

    def decode(self, x: Tensor, progress: bool = False) -> Tensor:
        """(B, 4, F, H, W) -> (B, 3, F, 8H, 8W)."""
        frames = x.transpose(1, 2).flatten(0, 1) / SPATIAL_SCALING_FACTOR
        batches = tqdm(self._micro_batches(frames), desc="decoding", disable=not progress, leave=False)
        video = torch.cat([self.module.decode(batch).sample for batch in batches])
        return video.unflatten(0, (len(x), -1)).transpose(1, 2)


class VideoAutoencoderPipeline(PretrainedModel):
    """Videos to normalized latents and back.

    Chunks of ``micro_frame_size`` frames are independent of each other, so a longer clip needs no more memory
    in the temporal part than one chunk, and its beginning decodes to the same frames as the shorter clip.
    """

    config_class = VideoAutoencoderConfig
    config: VideoAutoencoderConfig

    def __init__(self, config: VideoAutoencoderConfig):
        super().__init__(config)
        self.spatial_vae = SpatialVAE(config.autoencoder_kl, config.micro_batch_size)
        self.temporal_vae = VAETemporal(config.temporal)
        self.register_buffer("scale", torch.tensor(config.scale).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(config.shift).view(1, -1, 1, 1, 1))

    @property
    def out_channels(self) -> int:
        """Latent channels."""
        return self.config.temporal.embed_dim

    @torch.no_grad()
    def encode(self, x: Tensor, sample_posterior: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, F, 8H, 8W) in [-1, 1] -> normalized latents (B, 4, T, H, W).

        Args:
            sample_posterior: draw from both posteriors as upstream does; False takes their means.
        """
        x = self.spatial_vae.encode(x.to(self.dtype), sample_posterior, generator)
        chunks = x.split(self.config.micro_frame_size or x.shape[2], dim=2)
        posteriors = (self.temporal_vae.encode(chunk) for chunk in chunks)
        z = torch.cat([p.sample(generator) if sample_posterior else p.mode() for p in posteriors], dim=2)
        return (z - self.shift) / self.scale

    @torch.no_grad()
    def decode(self, z: Tensor, num_frames: int, progress: bool = False) -> Tensor:
        """Normalized latents (B, 4, T, H, W) -> (B, 3, num_frames, 8H, 8W), about [-1, 1].

        Args:
            progress: show a bar; nearly all of the time goes into single frames, so it counts those.

        Raises:
            ValueError: the number of latent frames does not belong to ``num_frames``.
        """
        expected = self.latent_frames(num_frames)
        if z.shape[2] != expected:
            raise ValueError(f"{num_frames} frames have {expected} latent frames, got {z.shape[2]}")
        z = z.to(self.dtype) * self.scale + self.shift
        frames_per_chunk = self.config.micro_frame_size or num_frames
        chunks = z.split(self.temporal_vae.latent_frames(frames_per_chunk), dim=2)
        x = torch.cat(
            [
                self.temporal_vae.decode(chunk, min(frames_per_chunk, num_frames - i * frames_per_chunk))
                for i, chunk in enumerate(chunks)
            ],
            dim=2,
        )
        return self.spatial_vae.decode(x, progress)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of ``num_frames`` frames."""
        chunk = self.config.micro_frame_size or num_frames
        full, rest = divmod(num_frames, chunk)
        return full * self.temporal_vae.latent_frames(chunk) + self.temporal_vae.latent_frames(rest)

    def get_latent_size(self, input_size: Sequence[int]) -> list[int]:
        """[frames, height, width] of a video -> [T, H, W] of its latents (sides are floored)."""
        frames, height, width = input_size
        factor = self.spatial_vae.downsample
        return [self.latent_frames(frames), height // factor, width // factor]


@MODELS.register_module("OpenSoraVAE_V1_2")
def open_sora_vae_v1_2(
    from_pretrained: str,
    micro_frame_size: int | None = 17,
    micro_batch_size: int | None = 4,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **ignored: Any,
) -> VideoAutoencoderPipeline:
    """Upstream's registered constructor; training-only options are ignored."""
    return VideoAutoencoderPipeline.from_pretrained(
        from_pretrained,
        dtype=dtype,
        device=device,
        micro_frame_size=micro_frame_size,
        micro_batch_size=micro_batch_size,
    )
