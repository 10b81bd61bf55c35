"""Clips and their records as a sampling run leaves them: lossless frames, videos, images, JSON."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opensora.datasets.video_io import IMAGE_SUFFIX, read_video

DUMP_SUFFIX = ".frames.npz"


@dataclass(frozen=True)
class Record:
    """What the JSON file beside a clip tells; None where it does not."""

    video: str | None = None  # file name
    prompt: str | None = None
    seed: int | None = None
    fps: float | None = None


def read_clip(path: Path) -> tuple[np.ndarray, float | None]:
    """Frames (F, H, W, 3) uint8 and frames per second; None for a dump or an image, which have no such thing.

    Raises:
        ValueError: the file cannot be read as a clip.
        OSError: it cannot be opened.
    """
    if path.name.endswith(DUMP_SUFFIX):
        return _read_dump(path), None
    frames, fps = read_video(path)
    return frames, None if path.suffix.lower() == IMAGE_SUFFIX else fps


def read_record(path: Path) -> Record:
    """The record at ``path``; an empty one if there is none, or if it is not of a sampling run."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Record()
    metadata = _section(data, "metadata")
    fps = _of_type(_section(metadata, "config").get("save_fps"), int, float)
    return Record(
        video=_of_type(metadata.get("video"), str),
        prompt=_of_type(metadata.get("prompt"), str),
        seed=_of_type(metadata.get("seed"), int),
        fps=float(fps) if fps else None,
    )


def _read_dump(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
    except KeyError as error:
        raise ValueError(f"'{path.name}' holds no array 'frames'") from error
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"'{path.name}' is damaged, or no npz file") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"'{path.name}' does not hold (F, H, W, 3) in uint8 but {frames.shape} in {frames.dtype}")
    return frames


def _section(data: Any, name: str) -> dict[str, Any]:
    section = data.get(name) if isinstance(data, dict) else None
    return section if isinstance(section, dict) else {}


def _of_type(value: Any, *types: type) -> Any:
    return value if isinstance(value, types) and not isinstance(value, bool) else None
