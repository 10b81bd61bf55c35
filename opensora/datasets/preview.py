"""Animated pictures of videos, for pages and file browsers that play no mp4."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from adacache.atomic import atomic_path
from opensora.datasets.contact_sheet import scaled_into
from opensora.datasets.video_io import as_rate, checked_frames

PreviewKind = Literal["webp", "apng"]

MAX_SIDE = 320  # pixels

_SUFFIXES = {"webp": ".preview.webp", "apng": ".preview.png"}
_FORMATS: dict[str, dict[str, Any]] = {
    "webp": {"format": "WEBP", "quality": 80, "method": 4},
    "apng": {"format": "PNG"},  # lossless
}
_SHORTEST = 11  # milliseconds; browsers show frames of 10 or less for 100
_LONGEST = 65_535  # milliseconds; the most that an APNG can store


def preview_path(path_without_suffix: str | os.PathLike[str], kind: PreviewKind) -> Path:
    """Return where `write_preview` puts the animation: `STEM.preview.webp` or `STEM.preview.png`.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind not in _SUFFIXES:
        raise ValueError(f"a preview is 'webp' or 'apng', not {kind!r}")
    path = Path(path_without_suffix)
    return path.with_name(path.name + _SUFFIXES[kind])  # a name made from a prompt has dots


def write_preview(
    path_without_suffix: str | os.PathLike[str],
    frames: np.ndarray,
    fps: float | Fraction,
    kind: PreviewKind = "webp",
    max_side: int = MAX_SIDE,
) -> Path:
    """Write frames (T, H, W, 3) uint8 as an animation that repeats forever, and return its path.

    The file appears complete or not at all, in place of an older one; the same frames give the same bytes. The
    animation lasts as long as the video, to the millisecond. Above 90 frames per second, some are left out, as browsers
    would slow the animation down.

    Args:
        max_side: pixels of the longer side; larger frames are scaled down, smaller ones stay.

    Raises:
        ValueError: frames, fps or kind cannot be used.
        OSError: the disk refuses.
    """
    target = preview_path(path_without_suffix, kind)
    array = checked_frames(frames)
    stride, milliseconds = _timing(len(array), as_rate(fps))
    array = array[::stride]
    if max(array.shape[1:3]) > max_side:
        array = scaled_into(array, (max_side, max_side))

    first, *others = [Image.fromarray(frame) for frame in array]
    # Pillow takes a single duration for a single image only.
    duration = milliseconds if others else milliseconds[0]
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as unfinished:
        first.save(unfinished, save_all=True, append_images=others, duration=duration, loop=0, **_FORMATS[kind])
    return target


def _timing(num_frames: int, rate: Fraction) -> tuple[int, list[int]]:
    """Return the stride between shown frames and the milliseconds of each; end times are rounded, not durations."""
    stride = math.ceil(_SHORTEST * rate / 1000)
    times = [round(1000 * frame / rate) for frame in [*range(0, num_frames, stride), num_frames]]
    milliseconds = [max(1, after - before) for before, after in zip(times, times[1:], strict=False)]
    if max(milliseconds) > _LONGEST:
        raise ValueError(f"fps={float(rate):g} is too slow for a preview: a frame may last {_LONGEST // 1000} seconds")
    return stride, milliseconds
