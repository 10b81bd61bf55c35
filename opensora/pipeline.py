"""From prompts to videos: the one place where text encoder, transformer, sampler and autoencoder meet."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from adacache import StepController, Trace
from adacache.policies.base import PolicyConfig
from opensora.conditioning.masking import append_clip, apply_mask_strategy
from opensora.config.loading import config_from_dict, load_config
from opensora.config.model_families import family_of
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import to_uint8
from opensora.errors import ConfigError, UserError
from opensora.load_models import load_models
from opensora.memory.measure import StageMeter
from opensora.models.text_encoder.encoded_text import (
    CaptionEncoder,
    EncodedText,
    NegativeTextEncoder,
    with_guidance,
)
from opensora.prompts.syntax import prepare_captions
from opensora.protocols import VideoAutoencoder, VideoModel
from opensora.registry import SCHEDULERS, build_module
from opensora.schedulers.steps import DenoiseOptions, NonFiniteLatentsError, OnStep, Sampler

if TYPE_CHECKING:
    from opensora.acceleration.video_group import VideoGroup

IMG_FPS = 120  # the frame rate the model was trained to read as "this is an image"


class SamplingError(UserError):
    """Sampling cannot go on; the message says at which step and what to change."""


@dataclass(frozen=True)
class SamplingOutput:
    """The result of sampling a batch of prompts.

    Attributes:
        videos: one (F, H, W, 3) uint8 array per prompt.
        latents: (B, 4, T, H', W') float32, before decoding; with several loops, those of all clips, joined along time.
        traces: one per prompt (the same one if the batch shares a schedule), or None for each without a cache. With
            several loops, those of the first loop.
        later_traces: for each following loop, a list like `traces`.
        seconds: time of the whole batch, from text encoding, which takes none if it was done before, to decoding.
    """

    videos: list[np.ndarray]
    latents: Tensor
    traces: list[Trace | None]
    seconds: float
    later_traces: list[list[Trace | None]] = field(default_factory=list)


class SamplingPipeline:
    """Loaded models and the settings of a config file; call it with prompts.

    Args:
        cache: how steps are reused; None computes every step. Every clip gets a new controller.
        group: the processes that share every video with this one; all of them make the same calls and get the same
            results. None if this process works alone.
        on_step: is called with every finished step of every call; an exception that it raises ends the call.

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
        on_step: OnStep | None = None,
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
        self.on_step = on_step
        self._denoiser = model if group is None else group.model(model)

    @classmethod
    def from_config(
        cls,
        config: SampleConfig | Mapping[str, Any] | str | os.PathLike[str],
        text_encoder: CaptionEncoder | None = None,
        group: VideoGroup | None = None,
    ) -> Self:
        """Load the models that a config names and build the pipeline.

        Args:
            config: a typed config, the entries of one, or the path of a config file.
            text_encoder: used instead of the config's, which is then not loaded.
            group: the processes that share every video, as for the class.

        Raises:
            ConfigError: the config cannot be used, its device does not exist or cannot be compiled for, or its target
                was calibrated with other weights.
            WeightsError: weights are missing, unreachable or damaged, or do not fit their model.
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
        """Return a pipeline of the same loaded models with other settings: size, steps, guidance, cache, loops.

        Raises:
            ConfigError: the cache does not fit the number of steps or the model's depth.
        """
        text_encoder, negative = self.text_encoder, config.negative_prompt
        if isinstance(text_encoder, NegativeTextEncoder) and negative != self.config.negative_prompt:
            text_encoder = replace(text_encoder, negative=negative)
        scheduler = build_module(vars(config.scheduler), SCHEDULERS)
        own = (scheduler, config, config.cache, self.group, self.on_step)
        return type(self)(self.model, self.vae, text_encoder, *own)

    @torch.no_grad()
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

        If a prompt is longer than the text encoder reads, a warning says where it is cut.

        Args:
            seed: one seed per prompt, or the first of consecutive ones; None takes the config's. A video depends only
                on its own seed, unless the cache has schedule="batch".
            progress: show progress bars; None follows the config's `verbose`.
            references: for each prompt, latents (4, t, H', W') of its references, as `encode_reference` returns them.
            mask_strategies: for each prompt, where its references go, in the syntax of
                `opensora.conditioning.mask_strategy`: "0,0,0,0,1,0" starts the video with the first latent frame of
                reference 0.
            meter: records the memory of the stages "denoise" and "decode".

        Raises:
            SamplingError: the latents became NaN or infinite, no prompts were given, or references do not fit.
        """
        started = time.monotonic()
        prompts = _listed(prompts)
        seeds = self._seeds(seed, len(prompts))
        references = [list(latents) for latents in references or [[]] * len(prompts)]
        strategies = list(mask_strategies or [])
        captions = [tuple(self.captions(prompts, loop)) for loop in range(self.config.loop)]
        texts: dict[tuple[str, ...], EncodedText] = {}
        for of_clip in dict.fromkeys(captions):
            texts[of_clip] = EncodedText.of(self.text_encoder, of_clip)
        stage = nullcontext if meter is None else meter.stage
        clips: list[SamplingOutput] = []
        for loop, of_clip in enumerate(captions):
            if clips:
                references, strategies = self._continued(clips[-1], seeds, references, strategies, loop)
            controller = self.controller()
            with stage("denoise"):
                latents = self._denoise(texts[of_clip], seeds, references, strategies, loop, progress, controller)
            with stage("decode"):
                videos = self.decode(latents, progress)
            traces = [None] * len(seeds) if controller is None else controller.traces
            clips.append(SamplingOutput(videos, latents, traces, seconds=time.monotonic() - started))
        return self._joined(clips)

    def _continued(
        self,
        before: SamplingOutput,
        seeds: Sequence[int],
        references: list[list[Tensor]],
        strategies: list[str],
        loop: int,
    ) -> tuple[list[list[Tensor]], list[str]]:
        """Return the references and mask strategies that make clip `loop` begin with the end of the clip before it.

        The latents are taken over unchanged. With `compat` the decoded frames are encoded again, as upstream does,
        which loses a little quality in every loop.
        """
        config = self.config
        length, edit = config.condition_frame_length, config.condition_frame_edit
        latents = before.latents[:, :, -length:]
        if config.compat:
            draws = [random_stream(seed, "continued clip", loop) for seed in seeds]
            latents = torch.stack([self.encode_reference(*video) for video in zip(before.videos, draws, strict=True)])
        return append_clip(latents, references, strategies or [""] * len(references), loop, length, edit)

    def _joined(self, clips: Sequence[SamplingOutput]) -> SamplingOutput:
        """Join the clips along time, leaving out the frames that each repeats from the clip before it."""
        first, *later = clips
        if not later:
            return first
        repeated = self.config.condition_frame_length
        chunk = self.vae.config.micro_frame_size or self.config.num_frames
        frames = repeated // self.vae.latent_frames(chunk) * chunk
        latents = torch.cat([first.latents, *(clip.latents[:, :, repeated:] for clip in later)], dim=2)
        parts = zip(first.videos, *([video[frames:] for video in clip.videos] for clip in later), strict=True)
        videos = [np.concatenate(of_video) for of_video in parts]
        return SamplingOutput(videos, latents, first.traces, clips[-1].seconds, [clip.traces for clip in later])

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
        """Return latents (B, 4, T, H', W') float32 of one clip per prompt; other arguments are those of a call.

        Args:
            controller: decides which steps are computed; without one all are, even if the pipeline has a `cache`.
            loop: index of the clip in a long video; it selects the text, the noise and the entries of mask strategies.

        Raises:
            SamplingError: as for a call.
        """
        prompts = _listed(prompts)
        seeds = self._seeds(seed, len(prompts))
        text = EncodedText.of(self.text_encoder, self.captions(prompts, loop))
        references = references or [[]] * len(prompts)
        return self._denoise(text, seeds, references, mask_strategies or [], loop, progress, controller)

    def _seeds(self, seed: int | Sequence[int] | None, count: int) -> Sequence[int]:
        """Return one seed for each of `count` prompts.

        Raises:
            SamplingError: there are no prompts, or not as many seeds as prompts.
        """
        if not count:
            raise SamplingError("no prompts were given; pass at least one")
        if seed is None or isinstance(seed, Integral):
            first = self.config.seed if seed is None else int(seed)
            return list(range(first, first + count))
        if len(seed) != count:
            raise SamplingError(f"got {len(seed)} seeds for {count} prompts; give one seed per prompt, or one")
        return seed

    def captions(self, prompts: Sequence[str], loop: int = 0) -> list[str]:
        """Return the captions that the text encoder reads for one loop."""
        config = self.config
        scores = (config.aes, config.flow, config.camera_motion)
        return [prepare_captions(prompt, *scores, loop + 1)[loop] for prompt in prompts]

    def controller(self) -> StepController | None:
        """Return a new controller for one clip; None without a cache."""
        if self.cache is None:
            return None
        if self.group is None:
            return StepController(self.cache)
        return StepController(self.cache, self.group.shard(self._latent_size()[0]))

    def _latent_size(self) -> list[int]:
        """Return [T, H', W'] of a clip's latents; upstream rounds sides down, and videos get smaller than asked for."""
        config, factor = self.config, self.vae.downsample
        sides = [config.height, config.width]
        if not config.compat:
            sides = [-(-side // factor) * factor for side in sides]
        return self.vae.get_latent_size([config.num_frames, *sides])

    def _noise_and_references(
        self, seeds: Sequence[int], references: Sequence[Sequence[Tensor]], strategies: Sequence[str], loop: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return noise (B, C, T, H, W) with references in it, and the mask (B, T) of sampled frames (None: all).

        Raises:
            SamplingError: the references do not fit.
        """
        config = self.config
        z = draw_noise(seeds, (self.vae.out_channels, *self._latent_size()), loop).to(
            self.model.device, self.model.dtype
        )
        if not strategies:
            if any(references):
                raise SamplingError("references were given, but no mask_strategies that say where they go")
            return z, None
        family = family_of(config.model.type)
        if "mask_strategy" in family.refused:
            raise SamplingError(f"{family.name} takes no references: {family.refused['mask_strategy']}")
        align = config.align if config.compat or config.vae.micro_frame_size else None
        try:
            return z, apply_mask_strategy(z, references, strategies, loop, align, config.compat)
        except ValueError as error:
            raise SamplingError(str(error)) from error

    def _denoise(
        self,
        text: EncodedText,
        seeds: Sequence[int],
        references: Sequence[Sequence[Tensor]],
        strategies: Sequence[str],
        loop: int,
        progress: bool | None,
        controller: StepController | None,
    ) -> Tensor:
        """Return the latents of one clip: draw noise, place references in it, denoise.

        Raises:
            SamplingError: the references do not fit, or the latents became NaN or infinite.
        """
        z, mask = self._noise_and_references(seeds, references, strategies, loop)
        options = DenoiseOptions(
            self.size_arguments(len(z)),
            mask,
            progress=self.config.verbose > 0 if progress is None else progress,
            controller=controller,
            generator=[random_stream(seed, "edited frames", loop) for seed in seeds],
            compat=self.config.compat,
            on_step=self.on_step,
        )
        try:
            return self.scheduler.denoise(self._denoiser, text, z, options)
        except NonFiniteLatentsError as error:
            raise SamplingError(str(error)) from error

    @torch.no_grad()
    def decode(self, latents: Tensor, progress: bool | None = None) -> list[np.ndarray]:
        """Decode latents (B, 4, T, H', W') into one (F, H, W, 3) uint8 video each.

        Raises:
            SamplingError: pixels are NaN or infinite.
        """
        config, group = self.config, self.group
        shown = config.verbose > 0 if progress is None else progress
        share = (0, 1) if group is None else group.share
        videos = self._frames(latents, self.vae.decode_chunks(latents, config.num_frames, shown, share=share))
        if group is not None:
            videos = group.collect(videos, latents.device)
        if videos is None:
            raise SamplingError(f"decoding gave NaN or infinite pixels in {config.dtype}; try dtype bf16 or fp32")
        return list(videos)

    def _frames(self, latents: Tensor, chunks: Iterator[Tensor]) -> np.ndarray | None:
        """Return decoded chunks as (B, F, H, W, 3) uint8; None if a pixel is NaN or infinite."""
        config, done = self.config, 0
        videos = np.empty((len(latents), 0, 0, 0, 3), np.uint8)
        for chunk in chunks:
            if not torch.isfinite(chunk).all():
                return None
            # Sides that are not a multiple of the autoencoder's factor were rounded up for sampling.
            chunk = chunk[..., : config.height, : config.width]
            if not done:
                videos = np.empty((len(chunk), config.num_frames, *chunk.shape[3:], 3), np.uint8)
            for video, pixels in zip(videos, chunk, strict=True):
                video[done : done + chunk.shape[2]] = to_uint8(pixels)
            done += chunk.shape[2]
        return videos[:, :done]

    def size_arguments(self, batch: int) -> dict[str, Tensor]:
        """Return the arguments that tell the model the size and frame rate of `batch` videos of the config."""
        config, model = self.config, self.model
        size = (config.height, config.width)
        info = (config.multi_resolution, batch, size, config.num_frames, config.fps, model.device, model.dtype)
        return prepare_multi_resolution_info(*info)

    @torch.no_grad()
    def encode_reference(self, frames: np.ndarray | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode a clip, (F, H, W, 3) uint8 or (3, F, H, W) in [-1, 1], to latents (4, t, H', W') for `references`.

        The mean of the autoencoder's posterior is taken, so that the same frames always give the same latents. An
        image is encoded as the first frame of a still clip: the temporal autoencoder normalizes over all frames of a
        chunk, so the latent of a lone frame differs from the first latent of a clip.

        With `compat` a sample of the posterior is drawn from `generator`, and an image is encoded alone.
        """
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(frames).movedim(-1, 0).float() / 127.5 - 1
        height, width = frames.shape[2:]
        factor, compat = self.vae.downsample, self.config.compat
        # Sides that are not a multiple of the autoencoder's factor become one as those of the noise do.
        if compat:
            frames = frames[..., : height // factor * factor, : width // factor * factor]
        else:
            frames = torch.nn.functional.pad(frames, (0, -width % factor, 0, -height % factor), mode="replicate")
        is_image = frames.shape[1] == 1 and not compat
        if is_image:
            frames = frames.expand(-1, self.vae.config.micro_frame_size or 1, -1, -1)
        latents = self.vae.encode(frames[None].to(self.model.device), sample_posterior=compat, generator=generator)[0]
        return latents[:, :1] if is_image else latents


def random_stream(seed: int, purpose: str, number: int) -> torch.Generator:
    """Return a generator for what is drawn besides the noise that sampling starts from, which it must not repeat.

    All three are hashed, as PyTorch takes only the low 32 bits of a seed: a large offset would change nothing.

    Args:
        number: of the loop or reference.
    """
    digest = hashlib.sha256(f"{int(seed)}, {purpose} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def draw_noise(seeds: Sequence[int], shape: Sequence[int], loop: int = 0) -> Tensor:
    """Draw noise (B, *shape), one sample per seed, on the CPU, so that it is the same on every device.

    Args:
        loop: index of the clip in a long video; each clip takes the next sample of its video's random stream.
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
    """Return height, width, num_frames, ar (height over width) and fps of videos, (B,) each, for STDiT3.

    With bfloat16, sizes are rounded to 8 significant bits (854 becomes 856), as upstream does.

    Args:
        info_type: "STDiT2"; None gives nothing.
        image_size: (height, width) in pixels.

    Source: opensora/utils/inference_utils.py (Open-Sora v1.2).
    """
    if info_type is None:
        return {}
    height, width = image_size
    fps = IMG_FPS if num_frames == 1 else fps
    values = {"height": height, "width": width, "num_frames": num_frames, "ar": height / width, "fps": fps}
    return {name: torch.tensor([value] * batch_size, device=device, dtype=dtype) for name, value in values.items()}


def _listed(prompts: str | Sequence[str]) -> list[str]:
    """Return prompts as a list; one may be given as a string."""
    return [prompts] if isinstance(prompts, str) else list(prompts)
