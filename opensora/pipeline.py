"""From prompts to videos: the one place where text encoder, transformer, sampler and autoencoder meet."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from adacache import StepController, Trace
from adacache.policies.base import PolicyConfig
from opensora.config.loading import config_from_dict, load_config
from opensora.config.schema import SampleConfig
from opensora.config.target import check_calibrated_model
from opensora.datasets.video_io import to_uint8
from opensora.models.checkpoint import read_config
from opensora.models.stdit.stdit3 import STDiT3
from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.models.text_encoder.t5 import GuidedTextEncoder, T5Encoder
from opensora.models.vae.vae import VideoAutoencoderPipeline
from opensora.registry import MODELS, SCHEDULERS, build_module
from opensora.schedulers.rf import RFLOW, NonFiniteLatentsError
from opensora.utils.compiler import check_compiler
from opensora.utils.conditioning import apply_mask_strategy
from opensora.utils.device import check_device
from opensora.utils.errors import ConfigError
from opensora.utils.multi_resolution import prepare_multi_resolution_info
from opensora.utils.prompts import append_score_to_prompts
from opensora.utils.weights import locate_weights

logger = logging.getLogger(__name__)

EDIT_SEED_OFFSET = 2**32  # the noise of edited frames must not repeat the noise that sampling starts from
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class SamplingError(ValueError):
    """Sampling cannot go on; the message says at which step and what to change."""


@dataclass(frozen=True)
class SamplingOutput:
    """What a batch of prompts became.

    Attributes:
        videos: one (F, H, W, 3) uint8 array per prompt.
        latents: (B, 4, T, H', W') float32, before decoding.
        traces: one per prompt (the same where a batch shares one schedule); None without a cache.
        seconds: time of the whole batch, text encoding to decoding.
    """

    videos: list[np.ndarray]
    latents: Tensor
    traces: list[Trace | None]
    seconds: float


class SamplingPipeline:
    """Loaded models and the settings of a config file; call it with prompts.

    Args:
        cache: how steps are reused; None computes every step. Each call has a controller of its own.

    Raises:
        ConfigError: the cache does not fit the number of steps or the model's depth.
    """

    def __init__(
        self,
        model: STDiT3,
        vae: VideoAutoencoderPipeline,
        text_encoder: T5Encoder,
        scheduler: RFLOW,
        config: SampleConfig,
        cache: PolicyConfig | None = None,
    ):
        if cache is not None:
            try:
                cache.validate(scheduler.num_sampling_steps, model.config.depth)
            except ValueError as error:
                raise ConfigError(f"cache: {error}") from error
        self.model = model
        self.vae = vae
        self.text_encoder = GuidedTextEncoder(text_encoder, model.y_embedder)
        self.scheduler = scheduler
        self.config = config
        self.cache = cache

    @classmethod
    def from_config(cls, config: SampleConfig | Mapping[str, Any] | str | os.PathLike[str]) -> Self:
        """Load the models that a config names: a typed one, its entries, or the path of a config file.

        Raises:
            ConfigError: the config cannot be used, its device does not exist, nothing can be compiled for it, or its
                target was calibrated with other weights.
            WeightsError: weights are missing, unreachable or damaged.
            CheckpointError: a checkpoint does not fit its model.
        """
        if isinstance(config, Mapping):
            config = config_from_dict(config)
        elif not isinstance(config, SampleConfig):
            config = load_config(config)
        device = check_device(config.device)
        if config.compile:
            check_compiler(device)
        config = locate_weights(config).downloaded().applied_to(config)
        check_calibrated_model(config)
        dtype = DTYPES[config.dtype]
        sections = {name: vars(getattr(config, name)) for name in ("model", "vae", "text_encoder", "scheduler")}
        text_dtype = DTYPES[config.text_encoder.dtype]
        cls._check_text_fits(config)
        VideoAutoencoderPipeline.check_pretrained(config.vae.from_pretrained)
        started = time.monotonic()
        logger.info("loading transformer (%s)", config.model.from_pretrained)
        model = build_module(sections["model"], MODELS, dtype=dtype, device=device)
        if config.compile:
            logger.info("compiling the transformer: the first steps take longer")
            model.compile_branches()
        logger.info("loading autoencoder (%s)", config.vae.from_pretrained)
        vae = build_module(sections["vae"], MODELS, dtype=dtype, device=device)
        logger.info("loading text encoder (%s)", config.text_encoder.from_pretrained)
        text_encoder = build_module(sections["text_encoder"], MODELS, dtype=text_dtype, device=device)
        logger.info("loaded in %.1f s", time.monotonic() - started)
        scheduler = build_module(sections["scheduler"], SCHEDULERS)
        return cls(model, vae, text_encoder, scheduler, config, config.cache)

    @staticmethod
    def _check_text_fits(config: SampleConfig) -> None:
        """Refuse a text encoder whose tokens the transformer cannot read."""
        qk_norm = {} if config.model.qk_norm is None else {"qk_norm": config.model.qk_norm}
        model = STDiT3.check_pretrained(config.model.from_pretrained, **qk_norm)
        text = config.text_encoder
        if text.model_max_length != model.model_max_length:
            raise ConfigError(
                f"text_encoder.model_max_length is {text.model_max_length}, but the transformer in "
                f"{config.model.from_pretrained} reads {model.model_max_length} tokens; set it to that"
            )
        width = read_config(Path(text.from_pretrained)).get("d_model")
        if width != model.caption_channels:
            raise ConfigError(
                f"the text encoder in {text.from_pretrained} has features of width {width}, but the transformer in "
                f"{config.model.from_pretrained} reads {model.caption_channels}; they do not belong together"
            )

    def __call__(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] | None = None,
        progress: bool | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        mask_strategies: Sequence[str] | None = None,
    ) -> SamplingOutput:
        """Sample one video per prompt.

        Args:
            seed: one seed per prompt, or the first of consecutive ones; None takes the config's. A video depends
                on its own seed only, unless a mask strategy edits frames or the cache has schedule="batch".
            progress: show progress bars; None as the config's ``verbose`` says.
            references: per prompt, the latents (4, t, H', W') of the frames it is given; see ``encode_reference``.
            mask_strategies: per prompt, where its references go, as ``opensora.utils.conditioning`` reads it:
                "0,0,0,0,1,0" starts the video with the first latent frame of reference 0.

        Raises:
            SamplingError: the latents became NaN or infinite, no prompts were given, or references do not fit.
        """
        started = time.monotonic()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        controller = None if self.cache is None else StepController(self.cache)
        latents = self.sample_latents(prompts, seed, progress, references, mask_strategies, controller)
        videos = self.decode(latents, progress)
        traces = [None] * len(prompts) if controller is None else controller.traces
        return SamplingOutput(videos, latents, traces, time.monotonic() - started)

    @torch.no_grad()
    def sample_latents(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] | None = None,
        progress: bool | None = None,
        references: Sequence[Sequence[Tensor]] | None = None,
        mask_strategies: Sequence[str] | None = None,
        controller: StepController | None = None,
    ) -> Tensor:
        """Latents (B, 4, T, H', W') float32 of one video per prompt, with the arguments of a call.

        Args:
            controller: decides which steps are computed; without one all are, whatever ``cache`` says.

        Raises:
            SamplingError: as for a call.
        """
        if not prompts:
            raise SamplingError("no prompts were given; pass at least one")
        config = self.config
        if seed is None or isinstance(seed, Integral):
            first = config.seed if seed is None else int(seed)
            seed = [first + i for i in range(len(prompts))]
        if len(seed) != len(prompts):
            raise SamplingError(f"got {len(seed)} seeds for {len(prompts)} prompts; give one seed per prompt, or one")
        z = self._noise(seed)
        if any(references or []) and not mask_strategies:
            raise SamplingError("references were given, but no mask_strategies that say where they go")
        try:
            mask = apply_mask_strategy(z, references or [[]] * len(prompts), mask_strategies or [], loop_i=0)
        except ValueError as error:
            raise SamplingError(str(error)) from error
        try:
            return self.scheduler.sample(
                self.model,
                self.text_encoder,
                z,
                self._captions(prompts),
                self.model.device,
                additional_args=self.size_arguments(len(prompts)),
                mask=mask,
                progress=self._shows(progress),
                controller=controller,
                generator=torch.Generator(z.device).manual_seed(int(seed[0]) + EDIT_SEED_OFFSET),
            )
        except NonFiniteLatentsError as error:
            raise SamplingError(str(error)) from error

    @torch.no_grad()
    def decode(self, latents: Tensor, progress: bool | None = None) -> list[np.ndarray]:
        """One (F, H, W, 3) uint8 video for each of the latents (B, 4, T, H', W').

        Raises:
            SamplingError: pixels are NaN or infinite.
        """
        decoded = self.vae.decode(latents, self.config.num_frames, self._shows(progress))
        if not torch.isfinite(decoded).all():
            raise SamplingError(f"decoding gave NaN or infinite pixels in {self.config.dtype}; try dtype bf16 or fp32")
        return [to_uint8(video) for video in decoded]

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
    def encode_reference(self, frames: np.ndarray) -> Tensor:
        """Latents (4, t, H', W') of a clip (F, H, W, 3) uint8, as ``references`` wants them.

        The mean of the autoencoder's posterior is taken, so that the same frames always give the same latents. An
        image is encoded as the first frame of a clip at rest: the temporal autoencoder normalizes over all frames of
        a chunk, so that a lone frame's latent differs from the one a clip begins with.
        """
        is_image = len(frames) == 1
        if is_image:
            frames = frames.repeat(self.vae.config.micro_frame_size or 1, axis=0)
        video = torch.from_numpy(frames).movedim(-1, 0).float() / 127.5 - 1
        latents = self.vae.encode(video[None].to(self.model.device), sample_posterior=False)[0]
        return latents[:, :1] if is_image else latents

    def _shows(self, progress: bool | None) -> bool:
        return self.config.verbose > 0 if progress is None else progress

    def _captions(self, prompts: Sequence[str]) -> list[str]:
        config = self.config
        scored = append_score_to_prompts(
            list(prompts), aes=config.aes, flow=config.flow, camera_motion=config.camera_motion
        )
        return [text_preprocessing(prompt) for prompt in scored]

    def _noise(self, seeds: Sequence[int]) -> Tensor:
        """One seed, one noise (B, C, T, H, W): drawn on the CPU, so that it is the same on every device."""
        config = self.config
        size = self.vae.get_latent_size([config.num_frames, config.height, config.width])
        shape = (self.vae.out_channels, *size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        return torch.stack(noise).to(self.model.device, self.model.dtype)
