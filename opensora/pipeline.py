"""From prompts to videos: the one place where text encoder, transformer, sampler and autoencoder meet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from adacache import StepController, Trace
from adacache.policies.base import PolicyConfig
from opensora.conditioning.masking import apply_mask_strategy
from opensora.config.loading import config_from_dict, load_config
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import to_uint8
from opensora.errors import ConfigError, UserError
from opensora.load_models import load_models
from opensora.loops import carried_over, continued
from opensora.memory.measure import StageMeter
from opensora.models.text_encoder.guidance import with_guidance
from opensora.models.text_encoder.t5 import CaptionEncoder
from opensora.prompts.captions import prepare_captions
from opensora.protocols import Sampler, VideoAutoencoder, VideoModel
from opensora.registry import SCHEDULERS, build_module
from opensora.schedulers.rf import NonFiniteLatentsError, TextEncoder

if TYPE_CHECKING:
    from opensora.acceleration.video_group import VideoGroup

IMG_FPS = 120  # the frame rate the model was trained to read as "this is an image"
_INFO_TYPES = ("OpenSora", "STDiT2", "PixArtMS")
EDIT_SEED_OFFSET = 2**32  # the noise of edited frames must not repeat the noise that sampling starts from


class SamplingError(UserError):
    """Sampling cannot go on; the message says at which step and what to change."""


@dataclass(frozen=True)
class SamplingOutput:
    """What a batch of prompts became.

    Attributes:
        videos: one (F, H, W, 3) uint8 array per prompt.
        latents: (B, 4, T, H', W') float32, before decoding; of several loops those of all clips, one after the other.
        traces: one per prompt (the same where a batch shares one schedule); None without a cache. Of several loops
            the first one's.
        later_traces: those of the following loops, a list like ``traces`` for each.
        seconds: time of the whole batch, text encoding to decoding.
    """

    videos: list[np.ndarray]
    latents: Tensor
    traces: list[Trace | None]
    seconds: float
    later_traces: list[list[Trace | None]] = field(default_factory=list)


class SamplingPipeline:
    """Loaded models and the settings of a config file; call it with prompts.

    Args:
        cache: how steps are reused; None computes every step. Each call has a controller of its own.
        group: the processes that share every video with this one; all of them make the same calls, and all get the
            same results. None where this process works alone.

    Raises:
        ConfigError: the cache does not fit the number of steps or the model's depth.
    """

    def __init__(
        self,
        model: VideoModel,
        vae: VideoAutoencoder,
        text_encoder: CaptionEncoder,
        scheduler: Sampler,
        config: SampleConfig,
        cache: PolicyConfig | None = None,
        group: VideoGroup | None = None,
    ):
        if cache is not None:
            try:
                cache.validate(scheduler.num_model_calls, model.config.depth)
            except ValueError as error:
                raise ConfigError(f"cache: {error}") from error
        self.model = model
        self.vae = vae
        self.text_encoder = with_guidance(text_encoder, model, config)
        self.scheduler = scheduler
        self.config = config
        self.cache = cache
        self.group = group
        self._denoiser = model if group is None else group.model(model)

    @classmethod
    def from_config(
        cls,
        config: SampleConfig | Mapping[str, Any] | str | os.PathLike[str],
        text_encoder: TextEncoder | None = None,
        group: VideoGroup | None = None,
    ) -> Self:
        """Load the models that a config names: a typed one, its entries, or the path of a config file.

        Args:
            text_encoder: takes the place of the config's, which is then not loaded.
            group: the processes that share every video, see ``SamplingPipeline``.

        Raises:
            ConfigError: the config cannot be used, its device does not exist, nothing can be compiled for it, or its
                target was calibrated with other weights.
            WeightsError: weights are missing, unreachable or damaged.
            WeightsError: a checkpoint does not fit its model.
        """
        if isinstance(config, Mapping):
            config = config_from_dict(config)
        elif not isinstance(config, SampleConfig):
            config = load_config(config)
        models = load_models(config, with_text_encoder=text_encoder is None)
        config = models.config
        scheduler = build_module(vars(config.scheduler), SCHEDULERS)
        text_encoder = text_encoder or models.text_encoder
        return cls(models.model, models.vae, text_encoder, scheduler, config, config.cache, group)

    def with_config(self, config: SampleConfig) -> Self:
        """The same loaded models under other settings of sampling: size, steps, guidance, cache, loops.

        Raises:
            ConfigError: the cache does not fit the number of steps or the model's depth.
        """
        scheduler = build_module(vars(config.scheduler), SCHEDULERS)
        return type(self)(self.model, self.vae, self.text_encoder, scheduler, config, config.cache, self.group)

    def __call__(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] | None = None,
        progress: bool | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        mask_strategies: Sequence[str] | None = None,
        meter: StageMeter | None = None,
    ) -> SamplingOutput:
        """Sample one video per prompt.

        Args:
            seed: one seed per prompt, or the first of consecutive ones; None takes the config's. A video depends
                on its own seed only, unless the cache has schedule="batch".
            progress: show progress bars; None as the config's ``verbose`` says.
            references: per prompt, the latents (4, t, H', W') of the frames it is given; see ``encode_reference``.
            mask_strategies: per prompt, where its references go, as ``opensora.conditioning.masking`` reads it:
                "0,0,0,0,1,0" starts the video with the first latent frame of reference 0.
            meter: notes the memory of the stages "denoise" and "decode".

        Raises:
            SamplingError: the latents became NaN or infinite, no prompts were given, or references do not fit.
        """
        started = time.monotonic()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        references = [list(latents) for latents in references or [[]] * len(prompts)]
        strategies = list(mask_strategies or [])
        clips: list[list[np.ndarray]] = [[] for _ in prompts]
        all_latents, traces = [], []
        stage = nullcontext if meter is None else meter.stage
        for loop in range(self.config.loop):
            controller = self.controller()
            with stage("denoise"):
                latents = self.sample_latents(prompts, seed, progress, references, strategies, controller, loop)
            with stage("decode"):
                videos = self.decode(latents, progress)
            given_latents, given_frames = carried_over(self.config, self.vae) if loop else (0, 0)
            all_latents.append(latents[:, :, given_latents:])
            for parts, video in zip(clips, videos, strict=True):
                parts.append(video[given_frames:])
            traces.append([None] * len(prompts) if controller is None else controller.traces)
            if loop + 1 < self.config.loop:
                strategies = strategies or [""] * len(prompts)
                references, strategies = continued(
                    self.config, self.vae, latents, videos, references, strategies, loop + 1
                )
        videos = [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in clips]
        seconds = time.monotonic() - started
        return SamplingOutput(videos, torch.cat(all_latents, dim=2), traces[0], seconds, traces[1:])

    def controller(self) -> StepController | None:
        """A new controller for one clip; None without a cache."""
        if self.cache is None:
            return None
        if self.group is None:
            return StepController(self.cache)
        frames = self.vae.get_latent_size([self.config.num_frames, self.config.height, self.config.width])[0]
        return StepController(self.cache, self.group.shard(frames))

    @torch.no_grad()
    def sample_latents(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] | None = None,
        progress: bool | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        mask_strategies: Sequence[str] | None = None,
        controller: StepController | None = None,
        loop: int = 0,
    ) -> Tensor:
        """Latents (B, 4, T, H', W') float32 of one clip per prompt, with the arguments of a call.

        Args:
            controller: decides which steps are computed; without one all are, whatever ``cache`` says.
            loop: which clip of a long video; it decides about text, noise and the entries of mask strategies.

        Raises:
            SamplingError: as for a call.
        """
        if not prompts:
            raise SamplingError("no prompts were given; pass at least one")
        config = self.config
        seeds = self._seeds(seed, len(prompts))
        z = self._noise(seeds, loop)
        if any(references or []) and not mask_strategies:
            raise SamplingError("references were given, but no mask_strategies that say where they go")
        mask = self._apply_references(z, references or [[]] * len(prompts), mask_strategies or [], loop)
        try:
            return self.scheduler.sample(
                self._denoiser,
                self.text_encoder,
                z,
                self.captions(prompts, loop),
                self.model.device,
                additional_args=self.size_arguments(len(prompts)),
                mask=mask,
                progress=self._shows(progress),
                controller=controller,
                generator=[torch.Generator().manual_seed(int(seed) + (loop + 1) * EDIT_SEED_OFFSET) for seed in seeds],
                compat=config.compat,
            )
        except NonFiniteLatentsError as error:
            raise SamplingError(str(error)) from error

    @torch.no_grad()
    def decode(self, latents: Tensor, progress: bool | None = None) -> list[np.ndarray]:
        """One (F, H, W, 3) uint8 video for each of the latents (B, 4, T, H', W').

        Raises:
            SamplingError: pixels are NaN or infinite.
        """
        shown = self._shows(progress)
        if self.group is None:
            videos = self._frames(latents, self.vae.decode_chunks(latents, self.config.num_frames, shown))
        else:
            share = self.group.share
            own = self.vae.decode_chunks(latents, self.config.num_frames, shown, share=share)
            videos = self.group.collect(self._frames(latents, own), latents.device)
        if videos is None:
            raise SamplingError(f"decoding gave NaN or infinite pixels in {self.config.dtype}; try dtype bf16 or fp32")
        return list(videos)

    def _frames(self, latents: Tensor, chunks: Iterator[Tensor]) -> np.ndarray | None:
        """Decoded chunks as (B, F, H, W, 3) uint8; None where a pixel is NaN or infinite."""
        config, done = self.config, 0
        videos = np.empty((len(latents), 0, 0, 0, 3), np.uint8)
        for chunk in chunks:
            if not torch.isfinite(chunk).all():
                return None
            # Sides that are no multiple of the autoencoder's factor were sampled up to the next one.
            chunk = chunk[..., : config.height, : config.width]
            if not done:
                videos = np.empty((len(chunk), config.num_frames, *chunk.shape[3:], 3), np.uint8)
            for video, pixels in zip(videos, chunk, strict=True):
                video[done : done + chunk.shape[2]] = to_uint8(pixels)
            done += chunk.shape[2]
        return videos[:, :done]

    def size_arguments(self, batch: int) -> dict[str, Tensor]:
        """Height, width, number of frames and frame rate of the config's video, (batch,) each, for the model."""
        config = self.config
        return prepare_multi_resolution_info(
            config.multi_resolution,
            batch,
            (config.height, config.width),
            config.num_frames,
            config.fps,
            self.model.device,
            self.model.dtype,
        )

    @torch.no_grad()
    def encode_reference(self, frames: np.ndarray | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents (4, t, H', W') of a clip, (F, H, W, 3) uint8 or (3, F, H, W) in [-1, 1], for ``references``.

        The mean of the autoencoder's posterior is taken, so that the same frames always give the same latents. An
        image is encoded as the first frame of a clip at rest: the temporal autoencoder normalizes over all frames of
        a chunk, so that a lone frame's latent differs from the one a clip begins with.

        With ``compat`` a sample of the posterior is drawn from ``generator``, and an image is encoded alone.
        """
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(frames).movedim(-1, 0).float() / 127.5 - 1
        height, width = frames.shape[2:]
        factor = self.vae.downsample
        # Sides that are no multiple of the autoencoder's factor go up to the next one, as the noise does.
        frames = torch.nn.functional.pad(frames, (0, -width % factor, 0, -height % factor), mode="replicate")
        compat = self.config.compat
        is_image = frames.shape[1] == 1 and not compat
        if is_image:
            frames = frames.expand(-1, self.vae.config.micro_frame_size or 1, -1, -1)
        latents = self.vae.encode(frames[None].to(self.model.device), sample_posterior=compat, generator=generator)[0]
        return latents[:, :1] if is_image else latents

    def _apply_references(
        self, z: Tensor, references: Sequence[Sequence[Tensor]], mask_strategies: Sequence[str], loop: int
    ) -> Tensor | None:
        """Write references into the noise ``z``; the mask (B, T) of what is sampled, None where all is.

        Raises:
            SamplingError: the references do not fit.
        """
        if not mask_strategies:
            return None
        config = self.config
        align = config.align if config.compat or config.vae.micro_frame_size else None
        try:
            return apply_mask_strategy(z, references, mask_strategies, loop, align, config.compat)
        except ValueError as error:
            raise SamplingError(str(error)) from error

    def _shows(self, progress: bool | None) -> bool:
        return self.config.verbose > 0 if progress is None else progress

    def _seeds(self, seed: int | Sequence[int] | None, count: int) -> Sequence[int]:
        """One seed per prompt.

        Raises:
            SamplingError: another number of seeds.
        """
        if seed is None or isinstance(seed, Integral):
            first = self.config.seed if seed is None else int(seed)
            return [first + i for i in range(count)]
        if len(seed) != count:
            raise SamplingError(f"got {len(seed)} seeds for {count} prompts; give one seed per prompt, or one")
        return seed

    def captions(self, prompts: Sequence[str], loop: int = 0) -> list[str]:
        """What the text encoder reads about one loop."""
        config = self.config
        scores = (config.aes, config.flow, config.camera_motion)
        return [prepare_captions(prompt, *scores, loop + 1)[loop] for prompt in prompts]

    def _noise(self, seeds: Sequence[int], loop: int) -> Tensor:
        """One seed, one noise, (B, C, T, H, W)."""
        config, factor = self.config, self.vae.downsample
        height, width = config.height, config.width
        if not config.compat:  # upstream rounds down, and the video gets smaller than asked for
            height, width = (-(-side // factor) * factor for side in (height, width))
        shape = (self.vae.out_channels, *self.vae.get_latent_size([config.num_frames, height, width]))
        return draw_noise(seeds, shape, loop).to(self.model.device, self.model.dtype)


def draw_noise(seeds: Sequence[int], shape: Sequence[int], loop: int = 0) -> Tensor:
    """One seed, one noise of ``shape``, (B, *shape): drawn on the CPU, so that it is the same on every device.

    Args:
        loop: which clip of a long video; every clip goes on in its video's stream.
    """
    noise = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        for _ in range(loop + 1):
            drawn = torch.randn(tuple(shape), generator=generator)
        noise.append(drawn)
    return torch.stack(noise)


def prepare_multi_resolution_info(
    info_type: str | None,
    batch_size: int,
    image_size: tuple[int, int],
    num_frames: int,
    fps: float,
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Keyword arguments of the model that tell it what it draws; nothing for `info_type` None.

    `image_size` is (height, width) in pixels. "OpenSora" and "STDiT2" give height, width, num_frames, ar
    (height over width) and fps, each [B]; "PixArtMS" gives ar [B, 1] and hw [B, 2]. With bfloat16, sizes are
    rounded to 8 significant bits (854 becomes 856), as in the reference.

    Raises:
        ValueError: an unknown `info_type`.

    Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
    """
    height, width = image_size

    def per_sample(value: float | list[float]) -> Tensor:
        row = torch.tensor([value], device=device, dtype=dtype)
        return row.repeat(batch_size, *[1] * (row.ndim - 1))

    if info_type is None:
        return {}
    if info_type == "PixArtMS":
        return {"ar": per_sample([height / width]), "hw": per_sample([height, width])}
    if info_type in _INFO_TYPES:
        return {
            "height": per_sample(height),
            "width": per_sample(width),
            "num_frames": per_sample(num_frames),
            "ar": per_sample(height / width),
            "fps": per_sample(IMG_FPS if num_frames == 1 else fps),
        }
    raise ValueError(f"unknown multi_resolution {info_type!r}: use {', '.join(_INFO_TYPES)} or None")
