"""The files of one sample: video, sidecar, traces with their pictures, and what else was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacache.atomic import atomic_path
from adacache.trace import Trace
from opensora.cli.identity import plain_config
from opensora.cli.plan import PlannedSample
from opensora.config.schema import SampleConfig
from opensora.datasets.frames import frames_path, write_frames
from opensora.datasets.preview import preview_path, write_preview
from opensora.datasets.video_io import IMAGE_SUFFIX, VIDEO_SUFFIX, write_video

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sampled:
    """What the models made of one sample.

    Attributes:
        frames: (F, H, W, 3) uint8.
        text: the prompt, or what a language model made of it.
        traces: one per loop; None where every step was computed.
        captions: what the text encoder read, one per loop.
        seconds: from noise to pixels.
    """

    frames: np.ndarray
    text: str
    traces: list[Trace | None]
    captions: list[str]
    seconds: float


def wanted_files(stem: str, config: SampleConfig) -> list[str]:
    """Names of the files that belong to a finished sample."""
    is_image = config.num_frames == 1
    names = [f"{stem}{IMAGE_SUFFIX if is_image else VIDEO_SUFFIX}", f"{stem}.json"]
    for loop in range(config.loop if config.cache else 0):
        names += [trace_name(stem, loop), _picture_name(stem, loop)]
    if config.save_frames:
        names.append(frames_path(stem, _frames_kind(config)).name)
    if config.preview and not is_image:
        names.append(preview_path(stem, config.preview).name)
    return list(dict.fromkeys(names))


def write_sample(
    folder: Path, sample: PlannedSample, sampled: Sampled, about: Mapping[str, Any]
) -> tuple[Path, list[Path]]:
    """Write the files of a sample into ``folder``; returns the video and everything.

    Each appears complete or not at all; the sidecar comes last but for the pictures of its traces.

    Args:
        about: what the sidecar says of the run: versions, device, weights.

    Raises:
        OSError: the disk refuses.
    """
    config, stem = sample.config, sample.stem
    frames = sampled.frames
    if config.watermark:
        from opensora.datasets.watermark import add_watermark

        frames = add_watermark(frames, config.watermark_text)
    video = write_video(folder / f"{stem}{VIDEO_SUFFIX}", frames, config.save_fps, config.crf)
    files = [video]
    if config.save_frames:
        files.append(write_frames(folder / stem, frames, _frames_kind(config)))
    if config.preview and len(frames) > 1:
        files.append(write_preview(folder / stem, frames, config.save_fps, config.preview))
    metadata = {"video": video.name, **describe(sample), "captions": sampled.captions}
    if sampled.text != sample.prompt.text:
        metadata["refined"] = sampled.text
    metadata |= {"seconds": round(sampled.seconds, 3), **about, "config": plain_config(config)}
    for loop, trace in enumerate(sampled.traces):
        files += _write_trace(folder, sample, loop, trace, metadata, frames)
    return video, list(dict.fromkeys(files))


def describe(sample: PlannedSample) -> dict[str, Any]:
    """What makes a sample this one, as JSON values; together with the config it is enough to make it again."""
    prompt = sample.prompt
    about = {"prompt": prompt.text, "seed": prompt.seed, "prompt_index": prompt.index, "number": prompt.number}
    if sample.references:
        about["references"] = [
            {"path": str(info.path.resolve()), "sha256": digest}
            for info, digest in zip(sample.references, sample.reference_hashes, strict=True)
        ]
        about["mask_strategy"] = sample.mask_strategy
    return about


def _write_trace(
    folder: Path,
    sample: PlannedSample,
    loop: int,
    trace: Trace | None,
    metadata: Mapping[str, Any],
    frames: np.ndarray,
) -> list[Path]:
    path = folder / trace_name(sample.stem, loop)
    if trace is None:
        if loop:
            return []
        with atomic_path(path) as temporary:
            text = json.dumps({"metadata": dict(metadata)}, indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        return [path]
    from adacache.trace_plot import plot_trace

    trace.save(path, **metadata, **({"loop": loop} if sample.config.loop > 1 else {}))
    picture = folder / _picture_name(sample.stem, loop)  # an image sample is itself a png
    cache = sample.config.cache
    # A static schedule has no codebook; a threshold is what policies have that go by a signal.
    codebook, threshold = getattr(cache, "codebook", None), getattr(cache, "threshold", None)
    plot_trace(trace, picture, codebook, sample.prompt.text, frames, threshold)
    return [path, picture]


def trace_name(stem: str, loop: int) -> str:
    """Where the trace of a loop is; the first one's is in the sidecar."""
    return f"{stem}.json" if loop == 0 else f"{stem}.loop{loop}.json"


def _picture_name(stem: str, loop: int) -> str:
    return f"{stem}.trace.png" if loop == 0 else f"{stem}.loop{loop}.trace.png"


def _frames_kind(config: SampleConfig) -> str:
    return config.save_frames if isinstance(config.save_frames, str) else "npz"
