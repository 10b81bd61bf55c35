"""The files of a sample, from the video to the plots of its traces, and its line in the table of results."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adacache.atomic import atomic_path
from adacache.outcome import surprises
from adacache.trace import Trace
from adacache.trace_plot import plot_trace
from opensora.cli.identity import plain_config
from opensora.cli.plan import Result, Sample
from opensora.config.schema import SampleConfig
from opensora.datasets.preview import preview_path, write_preview
from opensora.datasets.video_io import FRAMES_SUFFIX, IMAGE_SUFFIX, VIDEO_SUFFIX, write_frames, write_video
from opensora.datasets.watermark import add_watermark
from opensora.environment import installed_version
from opensora.errors import one_line, shortened

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "diffusers", "transformers", "mmengine", "av", "numpy", "opensora-adacache")


def result_of(sample: Sample, video: Path, seconds: float, traces: Sequence[Trace | None]) -> Result:
    """Return the result of a sample, given a trace for each of its loops, None where every step was computed."""
    kept = [trace for trace in traces if trace is not None]
    num_steps = sample.config.scheduler.num_model_calls * sample.config.loop
    savings = [trace.estimated_saving for trace in kept]
    return Result(
        video=video,
        seconds=seconds,
        num_steps=num_steps,
        num_computed=sum(trace.num_computed for trace in kept) if kept else num_steps,
        saving=sum(savings) / len(savings) if savings and None not in savings else None,
        surprises=tuple(dict.fromkeys(each for trace in kept for each in surprises(trace, sample.config.cache))),
    )


def read_result(folder: Path, sample: Sample) -> Result | None:
    """Read the result of a sample whose files exist from its sidecar and traces; return None if one is damaged."""
    path = folder / f"{sample.stem}.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        seconds = float(metadata["seconds"])
        loops = range(sample.config.loop if sample.config.cache is not None else 0)
        traces = [Trace.load(folder / trace_name(sample.stem, loop)) for loop in loops]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("WARNING %s is damaged (%s); the sample is made again", path, one_line(error))
        return None
    return result_of(sample, folder / wanted_files(sample.stem, sample.config)[0], seconds, traces)


def results_table(samples: Sequence[Sample]) -> str:
    """Return the table that a run ends with: video, computed steps, seconds, estimated saving."""
    results = [sample.result for sample in samples if sample.result is not None]
    table = [("video", "computed steps", "seconds", "estimated saving")]
    for r in results:
        saving = "-" if r.saving is None else f"{r.saving:.0%}"
        table.append((r.video.name, f"{r.num_computed}/{r.num_steps}", f"{r.seconds:.1f}", saving))
    lines = aligned(table)
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = "<" + ">" * (len(widths) - 1)
    return [
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=True)).rstrip()
        for row in rows
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can change a result."""
    packages = {name: number for name in _PACKAGES if (number := installed_version(name)) is not None}
    return {"python": platform.python_version(), **packages}


def wanted_files(stem: str, config: SampleConfig) -> list[str]:
    """Return the names of the files that belong to a finished sample, the video first."""
    is_image = config.num_frames == 1
    names = [f"{stem}{IMAGE_SUFFIX if is_image else VIDEO_SUFFIX}", f"{stem}.json"]
    for loop in range(config.loop if config.cache else 0):
        names += [trace_name(stem, loop), _picture_name(stem, loop)]
    if config.save_frames:
        names.append(f"{stem}{FRAMES_SUFFIX}")
    if config.preview and not is_image:
        names.append(preview_path(stem, config.preview).name)
    return list(dict.fromkeys(names))


def write_sample(
    folder: Path,
    sample: Sample,
    frames: np.ndarray,
    captions: Sequence[str],
    traces: Sequence[Trace | None],
    seconds: float,
    about: Mapping[str, Any],
) -> tuple[Result, list[Path]]:
    """Write the files of a sample into `folder`; return the result and all files, the video first.

    Each file appears complete or not at all; only trace plots and the traces of later loops come after the sidecar.

    Args:
        frames: (F, H, W, 3) uint8.
        captions: what the text encoder read, one per loop.
        traces: one per loop; None where every step was computed.
        seconds: from noise to pixels.
        about: what the sidecar records about the run, such as versions, device and weights.

    Raises:
        OSError: the disk refuses.
    """
    config, stem = sample.config, sample.stem
    if config.watermark:
        frames = add_watermark(frames, config.watermark_text)
    files = [write_video(folder / f"{stem}{VIDEO_SUFFIX}", frames, config.save_fps, config.crf)]
    if config.save_frames:
        files.append(write_frames(folder / stem, frames))
    if config.preview and len(frames) > 1:
        files.append(write_preview(folder / stem, frames, config.save_fps, config.preview))
    metadata = {"video": files[0].name, **describe(sample), "captions": list(captions)}
    if sample.text != sample.prompt:
        metadata["refined"] = sample.text
    metadata |= {"seconds": round(seconds, 3), **about}
    metadata["config"] = plain_config(config)
    for loop, trace in enumerate(traces):
        files += _write_trace(folder, sample, loop, trace, metadata, frames)
    return result_of(sample, files[0], seconds, traces), list(dict.fromkeys(files))


def describe(sample: Sample) -> dict[str, Any]:
    """Describe a sample in JSON values, which together with its config are enough to make it again."""
    about = {"prompt": sample.prompt, "seed": sample.seed, "prompt_index": sample.index, "number": sample.number}
    if sample.references:
        about["references"] = [
            {"path": str(info.path.resolve()), "sha256": digest}
            for info, digest in zip(sample.references, sample.reference_hashes, strict=True)
        ]
        about["mask_strategy"] = sample.mask_strategy
    return about


def _write_trace(
    folder: Path,
    sample: Sample,
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
    trace.save(path, **metadata, **({"loop": loop} if sample.config.loop > 1 else {}))
    picture = folder / _picture_name(sample.stem, loop)  # an image sample is itself a png
    cache = sample.config.cache
    # A static schedule has no codebook, and only policies that decide by a signal have a threshold.
    codebook, threshold = getattr(cache, "codebook", None), getattr(cache, "threshold", None)
    clip = f" (clip {loop + 1} of {sample.config.loop})" if sample.config.loop > 1 else ""
    plot_trace(trace, picture, codebook, f"{shortened(sample.prompt, 70)}{clip}", frames, threshold)
    return [path, picture]


def trace_name(stem: str, loop: int) -> str:
    """Return the file name of a loop's trace; the trace of the first loop is in the sidecar."""
    return f"{stem}.json" if loop == 0 else f"{stem}.loop{loop}.json"


def _picture_name(stem: str, loop: int) -> str:
    return f"{stem}.trace.png" if loop == 0 else f"{stem}.loop{loop}.trace.png"
