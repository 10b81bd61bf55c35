"""An image autoencoder of diffusers, applied frame by frame; Latte decodes with it.

Source: diffusers, `LattePipeline.decode_latents`; decoding gives the same result.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import diffusers
import torch
from torch import Tensor, nn
from tqdm import tqdm

from opensora.device import exact_convolutions
from opensora.models.parts import share_of
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

CLASSES = ("AutoencoderKL", "AutoencoderKLTemporalDecoder")
TEMPORAL_FRAMES = 14  # frames that a temporal decoder decodes together, as in LattePipeline


class ImageVAE(PretrainedModel):
    """`AutoencoderKL`, or `AutoencoderKLTemporalDecoder`, whose decoder smooths over neighboring frames.

    Attributes:
        module: diffusers' model.
        micro_batch_size: frames encoded or decoded at a time; None: those of all videos. A temporal decoder, whose
            frames depend on their neighbors, always takes 14 frames of one video instead.
        out_channels: channels of latents.
        downsample: pixels per latent, along a side of a frame.
    """

    def __init__(self, module: nn.Module, micro_batch_size: int | None = 4) -> None:
        super().__init__(module.config)
        self.module = module
        self.micro_batch_size = micro_batch_size
        self.out_channels: int = module.config.latent_channels
        self.downsample = 2 ** (len(module.config.block_out_channels) - 1)

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Self:
        """Build an autoencoder from the entries of a `config.json`, with new weights.

        Raises:
            ValueError: the class is not one of the known ones, or cannot use an entry.
        """
        name = values.get("_class_name", CLASSES[0])
        if name not in CLASSES:
            raise ValueError(f"it describes a {name}, not one of {', '.join(CLASSES)}")
        try:
            return cls(getattr(diffusers, name).from_config(values))
        except (AttributeError, RuntimeError, KeyError) as error:
            raise ValueError(str(error)) from error

    @property
    def core(self) -> nn.Module:
        """Diffusers' model."""
        return self.module

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip: one per frame."""
        return num_frames

    def get_latent_size(self, input_size: Sequence[int | None]) -> list[int | None]:
        """[F, H, W] of a video -> [T, H', W'] of its latents; None stays None."""
        frames, height, width = input_size
        return [frames, *(None if side is None else side // self.downsample for side in (height, width))]

    @torch.no_grad()
    @exact_convolutions()
    def encode(self, x: Tensor, sample_posterior: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Videos (B, 3, F, H, W) in [-1, 1] -> scaled latents (B, 4, F, H', W').

        Args:
            sample_posterior: draw from the posterior with `generator` instead of taking its mean.

        Raises:
            ValueError: the shape is another, or sides are not multiples of `downsample`.
        """
        if x.ndim != 5 or x.shape[1] != 3:
            raise ValueError(f"a video must be (B, 3, F, H, W), got {tuple(x.shape)}")
        if x.shape[3] % self.downsample or x.shape[4] % self.downsample:
            raise ValueError(
                f"frames of {x.shape[3]} x {x.shape[4]} cannot be encoded; sides must be multiples of {self.downsample}"
            )
        frames = x.movedim(2, 1).flatten(0, 1).to(self.device, self.dtype)
        latents = []
        for part in frames.split(self.micro_batch_size or len(frames)):
            posterior = self.module.encode(part).latent_dist
            latents.append(posterior.sample(generator) if sample_posterior else posterior.mode())
        return torch.cat(latents).unflatten(0, (len(x), -1)).movedim(1, 2) * self.module.config.scaling_factor

    @torch.no_grad()
    def decode_chunks(
        self, z: Tensor, num_frames: int, progress: bool = False, *, share: tuple[int, int] = (0, 1)
    ) -> Iterator[Tensor]:
        """Scaled latents (B, 4, T, H', W') -> pieces (B, 3, f, H, W) of the video, in order.

        Args:
            progress: show a bar that counts frames.
            share: (i, n) decodes only the i-th of n consecutive parts of the pieces.

        Raises:
            ValueError: the number of latent frames is not `num_frames`.
        """
        if z.shape[2] != num_frames:
            raise ValueError(f"{num_frames} frames have {num_frames} latent frames, got {z.shape[2]}")
        size = (
            TEMPORAL_FRAMES if self._is_temporal else max(1, (self.micro_batch_size or z.shape[2] * len(z)) // len(z))
        )
        z = (z / self.module.config.scaling_factor).to(self.device, self.dtype)
        parts = z.split(size, dim=2)
        parts = parts[share_of(len(parts), share)]
        total = sum(part.shape[2] for part in parts)
        with tqdm(total=total, desc="decoding", unit="frame", disable=not progress, leave=False) as bar:
            for part in parts:
                yield self._decode(part).float()
                bar.update(part.shape[2])

    @exact_convolutions()
    def _decode(self, z: Tensor) -> Tensor:
        """Latents (B, 4, t, H', W') -> (B, 3, t, H, W)."""
        if self._is_temporal:
            videos = [self.module.decode(video.movedim(1, 0), num_frames=z.shape[2]).sample for video in z]
            return torch.stack(videos).movedim(1, 2)
        frames = self.module.decode(z.movedim(2, 1).flatten(0, 1)).sample
        return frames.unflatten(0, (len(z), -1)).movedim(1, 2)

    @property
    def _is_temporal(self) -> bool:
        return "num_frames" in inspect.signature(self.module.decode).parameters


@MODELS.register_module("AutoencoderKL")
def image_vae(
    from_pretrained: str,
    dtype: torch.dtype,
    device: torch.device | str,
    micro_batch_size: int | None = 4,
    **ignored: Any,
) -> ImageVAE:
    """Load the autoencoder of a config's `vae` section."""
    vae = ImageVAE.from_pretrained(from_pretrained, dtype=dtype, device=device)
    vae.micro_batch_size = micro_batch_size
    return vae
