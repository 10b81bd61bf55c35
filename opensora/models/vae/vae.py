"""The v1.2 video VAE: a 2-D autoencoder per frame, then a causal temporal autoencoder per chunk of frames.

Shapes: B batch, F frames, T latent frames, videos (B, 3, F, 8H, 8W) in [-1, 1], latents (B, 4, T, H, W).
Source: Open-Sora v1.2, `opensora/models/vae/vae.py` (OpenSoraVAE_V1_2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from opensora.latent_frames import chunked_latent_frames
from opensora.models.parts import share_of
from opensora.models.vae.layerwise import TilingConfig
from opensora.models.vae.vae_spatial import SpatialVAE, check_tiles
from opensora.models.vae.vae_temporal import TemporalVAEConfig, VAETemporal
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

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
    """Contents of the `config.json` of a v1.2 VAE.

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
        """Read the published layout (sections `vae_2d` and `vae_temporal`)."""
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
        """Return the published layout, with the 2-D autoencoder's widths added."""
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


class VideoAutoencoderPipeline(PretrainedModel):
    """Encodes videos to normalized latents and decodes them.

    Chunks of `micro_frame_size` frames are independent of each other, so a longer clip needs no more memory
    in the temporal part than one chunk, and its beginning decodes to the same frames as the shorter clip.

    Args:
        tiling: how frames are cut into tiles to be encoded and decoded; None processes them whole. The result is the
            same up to rounding (`layerwise` says why). The attribute `tiling` may be changed at any time.

    Attributes:
        out_channels: channels of latents.
        downsample: pixels per latent, along a side of a frame.
    """

    config_class = VideoAutoencoderConfig
    config: VideoAutoencoderConfig

    def __init__(self, config: VideoAutoencoderConfig, tiling: TilingConfig | None = None):
        super().__init__(config)
        self.tiling = tiling
        self.spatial_vae = SpatialVAE(config.autoencoder_kl, config.micro_batch_size)
        self.temporal_vae = VAETemporal(config.temporal)
        self.out_channels = config.temporal.embed_dim
        self.downsample = self.spatial_vae.downsample
        self.register_buffer("scale", torch.tensor(config.scale).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(config.shift).view(1, -1, 1, 1, 1))

    @torch.no_grad()
    def encode(self, x: Tensor, sample_posterior: bool = True, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, F, 8H, 8W) in [-1, 1] -> normalized latents (B, 4, T, H, W).

        Args:
            sample_posterior: sample both posteriors (spatial and temporal) as upstream does; False takes their means.
        """
        x = self.spatial_vae.encode(x.to(self.dtype), sample_posterior, generator, self.tiling)
        chunks = x.split(self.config.micro_frame_size or x.shape[2], dim=2)
        posteriors = (self.temporal_vae.encode(chunk, self.tiling) for chunk in chunks)
        z = torch.cat([p.sample(generator) if sample_posterior else p.mode() for p in posteriors], dim=2)
        return (z - self.shift) / self.scale

    def decode(self, z: Tensor, num_frames: int, progress: bool = False) -> Tensor:
        """Normalized latents (B, 4, T, H, W) -> (B, 3, num_frames, 8H, 8W), about [-1, 1].

        Arguments and errors are those of `decode_chunks`, whose pieces are put into one tensor.
        """
        return torch.cat(list(self.decode_chunks(z, num_frames, progress)), dim=2)

    @torch.no_grad()
    def decode_chunks(
        self, z: Tensor, num_frames: int, progress: bool = False, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        """Normalized latents (B, 4, T, H, W) -> pieces (B, 3, f, 8H, 8W) of the video, in order.

        A piece is what the spatial autoencoder decodes at once: `micro_batch_size` frames of each video, or one frame
        if it is tiled. Pieces are not kept, so memory does not grow with the length of the clip.

        Args:
            progress: show a bar that counts frames; decoding single frames takes nearly all of the time.
            share: (i, n) decodes only the i-th of n consecutive parts of the pieces, to the same pixels; a temporal
                chunk that two parts need is decoded for both.

        Raises:
            ValueError: the number of latent frames is not that of `num_frames`.
        """
        expected = self.latent_frames(num_frames)
        if z.shape[2] != expected:
            raise ValueError(f"{num_frames} frames have {expected} latent frames, got {z.shape[2]}")
        frames_at_once = self.spatial_vae.frames_at_once(z, self.tiling) or num_frames
        pieces = share_of(-(-num_frames // frames_at_once), share)
        start, end = (min(edge * frames_at_once, num_frames) for edge in (pieces.start, pieces.stop))
        if start == end:
            return
        chunks = self._temporal_chunks(z, num_frames, start, end)
        with tqdm(total=end - start, desc="decoding", unit="frame", disable=not progress, leave=False) as bar:
            for x in _regrouped(chunks, frames_at_once):
                yield self.spatial_vae.decode(x, self.tiling)
                bar.update(x.shape[2])

    def _temporal_chunks(self, z: Tensor, num_frames: int, start: int, end: int) -> Iterator[Tensor]:
        """Yield the spatial autoencoder's latents (B, 4, f, H, W) of frames `start` to `end`, chunk by chunk."""
        z = z.to(self.dtype) * self.scale + self.shift
        frames_per_chunk = self.config.micro_frame_size or num_frames
        for i, chunk in enumerate(z.split(self.latent_frames(frames_per_chunk), dim=2)):
            first = i * frames_per_chunk
            frames = min(frames_per_chunk, num_frames - first)
            if first + frames > start and first < end:
                decoded = self.temporal_vae.decode(chunk, frames, self.tiling)
                yield decoded[:, :, max(start - first, 0) : end - first]

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames` frames."""
        return chunked_latent_frames(num_frames, self.config.micro_frame_size, self.temporal_vae.config.time_factor)

    def get_latent_size(self, input_size: Sequence[int | None]) -> list[int | None]:
        """[frames, height, width] of a video -> [T, H, W] of its latents (sides are floored); None stays None."""
        frames, height, width = input_size
        sides = [None if side is None else side // self.downsample for side in (height, width)]
        return [None if frames is None else self.latent_frames(frames), *sides]


def _regrouped(chunks: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
    """Regroup chunks (B, C, F, H, W) into pieces of `frames` frames; the last piece may have fewer."""
    rest: Tensor | None = None
    for chunk in chunks:
        rest = chunk if rest is None else torch.cat([rest, chunk], dim=2)
        while rest.shape[2] >= frames:
            yield rest[:, :, :frames]
            rest = rest[:, :, frames:]
    if rest is not None and rest.shape[2]:
        yield rest


@MODELS.register_module("OpenSoraVAE_V1_2")
def open_sora_vae_v1_2(
    from_pretrained: str,
    micro_frame_size: int | None = 17,
    micro_batch_size: int | None = 4,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    tiling: bool = False,
    tile_size: int | None = None,
    **ignored: Any,
) -> VideoAutoencoderPipeline:
    """Upstream's registered constructor; training-only options are ignored.

    Args:
        tiling: encode and decode in tiles (`VideoAutoencoderPipeline.tiling`).
        tile_size: rows and columns of a tile, in latents; None takes the default of `TilingConfig`.

    Raises:
        ValueError: `tile_size` is not a positive integer, or the autoencoder cannot be tiled.
        WeightsError: as `from_pretrained`.
    """
    tiles = TilingConfig(**({} if tile_size is None else {"tile_size": tile_size})) if tiling else None
    vae = VideoAutoencoderPipeline.from_pretrained(
        from_pretrained,
        dtype=dtype,
        device=device,
        micro_frame_size=micro_frame_size,
        micro_batch_size=micro_batch_size,
    )
    if tiles is not None:
        check_tiles(vae.spatial_vae.module)
    vae.tiling = tiles
    return vae
