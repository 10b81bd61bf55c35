"""Measure what comes before and after the steps, and whole videos: text, decoding, runs, and published weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from adacache import StepController
from adacache.calibration.quality import psnr
from adacache.policies.base import PolicyConfig
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig
from bench.gpu.denoising import FullSizeModel
from bench.gpu.report import Check, top_kernels
from opensora.cli.compare import WARM_UP_STEPS
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.datasets.video_io import to_uint8
from opensora.files import REPO_ROOT
from opensora.memory.report import estimate_stages
from opensora.memory.shapes import PUBLISHED
from opensora.models.vae import VideoAutoencoderPipeline
from opensora.models.vae.layerwise import TilingConfig
from opensora.models.vae.vae import VideoAutoencoderConfig
from opensora.pipeline import SamplingPipeline
from opensora.registry import SCHEDULERS, build_module

CONFIGS = {"480p": "configs/sample_480p.py", "720p": "configs/sample.py"}
# Computed steps by resolution: as many as give the paper's speedups, and the fewest that its codebooks allow.
COMPUTED = {"480p": (13,), "720p": (21, 12)}
UNCACHED_STEPS = 10  # steps that are timed and scaled to all steps
DRY = {"num_sampling_steps": 6, "image_size": (64, 64), "verbose": 0}
PROMPT = "a panda plays guitar by the sea at sunset"
TOKENS = 300
_TEMPORAL_CHUNK = (5, 17)  # latent frames, frames


@torch.no_grad()
def check_vae(check: Check) -> None:
    """Measure decoding with random weights: on the device alone, with frames to the host, and in tiles."""
    vae = _random_vae(check)
    for resolution in check.resolutions:
        config = load_config(REPO_ROOT / CONFIGS[resolution])
        size = (5, 2, 2) if check.tiny else vae.get_latent_size([config.num_frames, config.height, config.width])
        frames = 17 if check.tiny else config.num_frames
        latents = check.randn(1, vae.out_channels, *size)

        def decode() -> None:
            for _ in vae.decode_chunks(latents, frames):  # noqa: B023
                pass

        def to_host() -> None:
            for piece in vae.decode_chunks(latents, frames):  # noqa: B023
                to_uint8(piece[0])

        def measure(what: str, function: Any) -> None:
            what = f"{resolution} {what}"  # noqa: B023
            with check.peak(f"{what}: peak memory"):
                first = check.seconds(function)
            check.figure(what, check.seconds(function), "s", first=first)

        measure("decode, on the device alone", decode)
        measure("decode, frames to the host", to_host)
        if resolution == "480p":
            vae.tiling = TilingConfig(2 if check.tiny else 32)
            measure("decode, in tiles", decode)
            vae.tiling = None
        chunk = check.randn(1, vae.out_channels, _TEMPORAL_CHUNK[0], *size[1:])
        spent = check.milliseconds(lambda: vae.temporal_vae.decode(chunk, _TEMPORAL_CHUNK[1]), 2, 1)  # noqa: B023
        check.figure(f"{resolution} temporal half, one chunk of 17 frames", spent, "ms")
        frames_at_once = check.randn(4, vae.out_channels, *size[1:])
        top_kernels(check, lambda: vae.spatial_vae.module.decode(frames_at_once), 10)  # noqa: B023


@torch.no_grad()
def check_t5(check: Check) -> None:
    """Time a caption of 300 tokens through T5-XXL with random weights."""
    for dtype in (torch.bfloat16, torch.float32):
        what = f"T5-XXL {str(dtype).removeprefix('torch.')}"
        with check.peak(f"{what}: peak memory"):
            spent, _ = _encoded(check, dtype)
        check.figure(f"{what}, a caption", 1000 * spent, "ms")


def _encoded(check: Check, dtype: torch.dtype) -> tuple[float, StoredCaption]:
    """Return the seconds to encode a caption, and its features; the encoder is freed."""
    text = RandomText(check, dtype)
    spent = [check.seconds(lambda: text.encode([PROMPT])) for _ in range(4)]
    return min(spent[1:]), StoredCaption(text.encode([PROMPT]))


@torch.no_grad()
def check_runs(check: Check, full_size: FullSizeModel) -> None:
    """Measure time and memory of whole videos with random weights; schedules are given, as pictures mean nothing."""
    model = full_size.get(check)
    text_seconds, caption = _encoded(check, torch.bfloat16)
    for resolution in check.resolutions:
        for compiled in (False,) if check.tiny else (True, False):
            vae = _random_vae(check)
            if compiled:
                model.compile_blocks()
            pipe = _pipeline(check, model, vae, caption, resolution)
            what = f"{resolution}, {'compiled' if compiled else 'eager'}"
            if not check.tiny and check.seconds_left < 45:
                check.note(what, "no time")
                continue
            _videos(check, what, pipe, resolution, text_seconds)
            full_size.get(check)  # eager again


def _videos(check: Check, what: str, pipe: SamplingPipeline, resolution: str, text_seconds: float) -> None:
    """Measure one resolution: cached with every number of computed steps, and uncached, with text and decoding."""
    steps = pipe.config.scheduler.num_sampling_steps
    taken = min(UNCACHED_STEPS, steps)
    few = pipe.with_config(_config(check, resolution, taken))
    few.sample_latents([PROMPT], progress=False, controller=StepController(even_schedule(3, taken)))  # to compile
    uncached = check.seconds(lambda: few.sample_latents([PROMPT], progress=False)) * steps / taken
    check.figure(f"{what}, {steps} steps, all computed (from {taken}): denoise", uncached, "s")
    # In eager mode, one number is enough to compare.
    counts = (4,) if check.tiny else COMPUTED[resolution][: None if "compiled" in what else 1]
    for computed, make in ((count, make) for count in counts for make in (even_schedule, even_multistep)):
        controller = StepController(make(computed, steps))
        results: list[Tensor] = []

        def denoise() -> None:
            results.append(pipe.sample_latents([PROMPT], progress=False, controller=controller))  # noqa: B023

        named = f"{what}, {computed} computed, {controller.config.label}: peak memory"
        with check.peak(f"{named}, denoise", estimate=_estimate(pipe.config, controller.config, "denoise")):
            denoising = check.seconds(denoise)
        with check.peak(f"{named}, decode", estimate=_estimate(pipe.config, controller.config, "decode")):
            decoding = check.seconds(lambda: pipe.decode(results[0].clamp(-1, 1), progress=False))  # noqa: B023
        rest = text_seconds + decoding
        trace = controller.trace
        reuses = trace.metadata.get("reuses", "residuals")
        check.figure(
            f"{what}, {steps} steps, {trace.num_computed} computed, {reuses} reused: denoise",
            denoising,
            "s",
            text=text_seconds,
            decode=decoding,
            times_faster_denoising=uncached / denoising,
            times_faster_in_all=(uncached + rest) / (denoising + rest),
        )


@torch.no_grad()
def check_quality(check: Check) -> None:
    """Measure real schedules with published weights, and the PSNR of their videos to the uncached one."""
    if check.weights_dir is None and not check.tiny:
        return check.note("published weights", "not given; --weights-dir names a folder that holds them")
    names = ("configs/mini/sample.py", "configs/mini/sample_adacache.py", "configs/mini/sample_adacache_moreg.py")
    flags: dict[str, Any] = {"device": str(check.device), "verbose": 0}
    options: dict[str, Any] = {}
    if check.tiny:
        flags |= DRY
    else:
        names = (
            "configs/sample_480p.py",
            "configs/sample_480p_adacache_fast.py",
            "configs/sample_480p_adacache_fast_moreg.py",
        )
        base = load_config(REPO_ROOT / names[0])
        for piece in ("model", "vae", "text_encoder"):
            folder = check.weights_dir / getattr(base, piece).from_pretrained.split("/")[-1]
            options[f"{piece}.from_pretrained"] = str(folder)
    configs = [load_config(REPO_ROOT / name, flags, options) for name in names]
    first = SamplingPipeline.from_config(configs[0])
    few = replace(configs[0], cache=None, scheduler=replace(configs[0].scheduler, num_sampling_steps=WARM_UP_STEPS))
    first.with_config(few)([PROMPT])
    uncached = first([PROMPT])
    for name, config in zip(names[1:], configs[1:], strict=True):
        output = first.with_config(config)([PROMPT])
        check.figure(
            name,
            psnr(output.videos[0], uncached.videos[0]),
            "dB to the uncached video",
            computed=output.traces[0].computed_steps,
            times_faster=uncached.seconds / output.seconds,
        )


class RandomText:
    """T5-XXL with random weights; it reads every caption as the same tokens."""

    def __init__(self, check: Check, dtype: torch.dtype) -> None:
        sizes = PUBLISHED["t5"]["DeepFloyd/t5-v1_1-xxl"]
        if check.tiny:
            sizes = {**sizes, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        with torch.device("meta"):
            model = T5EncoderModel(T5Config(**sizes)).to(dtype).eval()
        self._model = model.to_empty(device=check.device)
        for parameter in self._model.parameters():
            parameter.data.normal_(std=0.02)
        self._tokens = torch.randint(1, 1000, (1, TOKENS), device=check.device)

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return features (1, 1, L, width) and mask (1, L)."""
        mask = torch.ones_like(self._tokens)
        features = self._model(input_ids=self._tokens, attention_mask=mask).last_hidden_state
        return {"y": features[:, None], "mask": mask}


@dataclass(frozen=True)
class StoredCaption:
    """A text encoder that has encoded its only caption already."""

    encoded: dict[str, Tensor]

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return the same features for every prompt."""
        return self.encoded


def even_schedule(computed: int, steps: int) -> StaticScheduleConfig:
    """Return the first and the last two steps, and the others evenly in between."""
    between = [round(1 + (steps - 3) * i / max(computed - 3, 1)) for i in range(max(computed - 3, 0))]
    return StaticScheduleConfig(tuple(sorted({0, steps - 2, steps - 1, *between})))


def even_multistep(computed: int, steps: int) -> MultistepConfig:
    """Return the same steps, with up to three outputs combined by arbitrary coefficients."""
    listed = even_schedule(computed, steps).computed_steps
    weights = ((1.0,), (1.5, -0.5), (1.8, -1.0, 0.2))
    coefficients = [(weights[min(place, 2)],) * 2 for place in range(len(listed))]
    return MultistepConfig(listed, steps, coefficients=coefficients)


def _config(check: Check, resolution: str, steps: int | None = None) -> SampleConfig:
    if check.tiny:
        return load_config(REPO_ROOT / "configs/mini/sample.py", DRY)
    return load_config(REPO_ROOT / CONFIGS[resolution], {"num_sampling_steps": steps, "verbose": 0})


def _pipeline(check: Check, model: Any, vae: Any, text: StoredCaption, resolution: str) -> SamplingPipeline:
    config = _config(check, resolution)
    if check.tiny:
        return SamplingPipeline.from_config(config)
    scheduler = build_module(vars(config.scheduler), SCHEDULERS)
    return SamplingPipeline(model, vae, text, scheduler, config)


def _estimate(config: SampleConfig, cache: PolicyConfig, stage: str) -> float:
    """Return the GB that the sampler estimates for the stage."""
    stages = estimate_stages(replace(config, cache=cache), 1, text=False)
    return next(item.total for item in stages if item.name == stage) / 1e9


def _random_vae(check: Check) -> VideoAutoencoderPipeline:
    if check.tiny:
        return VideoAutoencoderPipeline.from_pretrained(REPO_ROOT / "tests/golden/vae/model", dtype=torch.bfloat16)
    with torch.device("meta"):
        vae = VideoAutoencoderPipeline(VideoAutoencoderConfig()).to(torch.bfloat16).eval()
    vae = vae.to_empty(device=check.device)
    for tensor in (*vae.parameters(), *vae.buffers()):
        tensor.data.normal_(std=0.02)
    for module in vae.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.data.fill_(1.0)
    return vae
