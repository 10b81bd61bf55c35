"""One prompt under several caches: their figures, and their videos side by side."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ImageColor

from adacache.calibration.quality import psnr
from adacache.trace import Trace
from adacache.trace_plot import COMPUTED, REUSED
from opensora.cli.text_stage import encode_captions
from opensora.config.schema import SampleConfig
from opensora.config.target import check_calibrated_model
from opensora.config.trained_on import trained_on
from opensora.datasets.contact_sheet import Strip, grid, scaled_into
from opensora.datasets.preview import write_preview
from opensora.datasets.video_io import write_video
from opensora.device import check_device, limit_threads
from opensora.models.text_encoder.encoded_text import negative_prompts
from opensora.pipeline import SamplingPipeline
from opensora.prompts.syntax import prepare_captions
from opensora.weights import locate_weights
from opensora.weights.download import download_missing

logger = logging.getLogger(__name__)

NAME = "comparison"
WARM_UP_STEPS = 4  # the first steps of a process take longer; the fewest that every solver can do
SMALLEST_SIDE, LARGEST_SIDE = 208, 640  # pixels of a frame's longer side in the picture
MAX_PREVIEW_SIDE = 1280  # pixels
BAR_HEIGHT = 10  # pixels


@dataclass(frozen=True)
class Variant:
    """A sampled video (F, H, W, 3) uint8 and how it was made; `trace` is None without a cache.

    Attributes:
        psnr: in dB, to the uncached video; infinite if equal, None for that video itself.
        seconds: from noise to frames; the text is encoded before.
        speedup: seconds of the uncached video divided by these.
    """

    name: str
    frames: np.ndarray
    trace: Trace | None
    num_steps: int
    psnr: float | None
    seconds: float
    speedup: float

    @property
    def computed(self) -> list[bool]:
        """For each step, whether it was computed."""
        return [True] * self.num_steps if self.trace is None else [record.computed for record in self.trace.records]

    @property
    def figures(self) -> tuple[str, str, str]:
        """Computed steps, seconds and PSNR as text; the PSNR of the uncached video is ""."""
        to_uncached = "" if self.psnr is None else "equal" if self.psnr == math.inf else f"{self.psnr:.1f} dB"
        return f"{sum(self.computed)}/{self.num_steps}", f"{self.seconds:.2f} s", to_uncached


def compare(configs: Sequence[SampleConfig], prompt: str, folder: Path) -> tuple[Path, Path]:
    """Sample a prompt under each config, print a line for each, and write the video and the animated picture.

    Args:
        configs: settings of the same video; the first has no cache and is what the others are measured against. All
            videos take its seed.

    Raises:
        ConfigError: a config cannot be run on this machine, or was calibrated with other weights.
        WeightsError: weights are missing, unreachable or damaged.
        SamplingError: latents or pixels are not finite.
    """
    first = configs[0]
    weights = download_missing(locate_weights(first))
    for config in configs:
        check_calibrated_model(weights.applied_to(config))
    located = weights.applied_to(first)
    captions = prepare_captions(prompt, first.aes, first.flow, first.camera_motion, first.loop)
    known = trained_on(located.model.from_pretrained)
    for line in known.outside(captions, [(first.num_frames, first.height, first.width)]) if known else ():
        logger.warning("WARNING %s", line)
    text = encode_captions(located, captions, check_device(first.device), whole=negative_prompts(first))
    pipe = SamplingPipeline.from_config(located, text)
    limit_threads(pipe.model)
    short = replace(first, scheduler=replace(first.scheduler, num_sampling_steps=WARM_UP_STEPS))
    pipe.with_config(short)([prompt], progress=False)

    width = max(len(config.path) for config in configs)
    print(f"{'':<{width}} {'PSNR':>8} {'computed':>9} {'seconds':>8} {'speedup':>8}")
    variants: list[Variant] = []
    for config in configs:
        variant = _sample(pipe.with_config(config), prompt, first.seed, variants[0] if variants else None)
        variants.append(variant)
        name, speedup = (config.path, f"{variant.speedup:.1f}x") if len(variants) > 1 else ("no cache", "-")
        computed, seconds, to_uncached = variant.figures
        print(f"{name:<{width}} {to_uncached or '-':>8} {computed:>9} {seconds:>8} {speedup:>8}", flush=True)

    pictures = side_by_side(variants, prompt)
    video = write_video(folder / NAME, pictures, first.save_fps, first.crf)
    return video, write_preview(folder / NAME, pictures, first.save_fps, max_side=MAX_PREVIEW_SIDE)


def _sample(pipe: SamplingPipeline, prompt: str, seed: int, reference: Variant | None) -> Variant:
    output = pipe([prompt], seed=seed)
    frames, seconds = output.videos[0], output.seconds
    to_uncached = None
    if reference is not None:
        to_uncached = math.inf if np.array_equal(frames, reference.frames) else psnr(frames, reference.frames)
    return Variant(
        name="no cache" if reference is None else title(pipe.config),
        frames=frames,
        trace=output.traces[0],
        num_steps=pipe.scheduler.num_model_calls,
        psnr=to_uncached,
        seconds=seconds,
        speedup=1.0 if reference is None else reference.seconds / seconds,
    )


def title(config: SampleConfig) -> str:
    """Return a config's title in pictures: the name of its file as words."""
    return Path(config.path).stem.removeprefix("sample_").replace("_", " ")


def side_by_side(variants: Sequence[Variant], heading: str) -> np.ndarray:
    """Return frames (F, H, W, 3) uint8 of all videos side by side, each below its figures and above its steps."""
    longest = max(variants[0].frames.shape[1:3])
    side = min(max(longest, SMALLEST_SIDE), LARGEST_SIDE)
    panels = [scaled_into(variant.frames, (side, side)) for variant in variants]
    bars = [_bar(variant.computed, panels[0].shape[2]) for variant in variants]
    figures = (variant.figures for variant in variants)
    notes = [f"{computed} steps, {seconds}, {psnr_text or 'reference'}" for computed, seconds, psnr_text in figures]
    pictures = []
    for frames in zip(*panels, strict=True):
        strips = [
            Strip(np.concatenate([frame, bar]), variant.name, note=note)
            for frame, bar, variant, note in zip(frames, bars, variants, notes, strict=True)
        ]
        pictures.append(np.asarray(grid(strips, len(strips), text_lines=2, font_size=side // 16, heading=heading)))
    return np.stack(pictures)


def _bar(computed: Sequence[bool], width: int) -> np.ndarray:
    """Draw a bar (BAR_HEIGHT, width, 3) uint8 with a cell for each step, in the colors of a trace plot."""
    colors = np.array([ImageColor.getrgb(COMPUTED if step else REUSED) for step in computed], np.uint8)
    steps = np.arange(width) * len(computed) // width
    bar = np.repeat(colors[steps][None], BAR_HEIGHT, axis=0)
    bar[:2] = 255
    if width >= 4 * len(computed):
        bar[:, np.flatnonzero(np.diff(steps, prepend=0))] = 255
    return bar
