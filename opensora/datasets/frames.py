"""The exact frames of a video on disk, in one npz file or as a folder of PNGs.

Measure quality on these, as an mp4 is lossy.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from adacache.atomic import atomic_path
from opensora.datasets.video_io import checked_frames

FramesKind = Literal["npz", "png"]

_SUFFIXES = {"npz": ".frames.npz", "png": ".frames"}
_KEY = "frames"  # of the array in the npz file


def frames_path(path_without_suffix: str | os.PathLike[str], kind: FramesKind) -> Path:
    """Return where `write_frames` puts the frames: `STEM.frames.npz`, or the folder `STEM.frames`.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind not in _SUFFIXES:
        raise ValueError(f"frames are kept as 'npz' or 'png', not as {kind!r}")
    path = Path(path_without_suffix)
    return path.with_name(path.name + _SUFFIXES[kind])  # a name made from a prompt has dots


def write_frames(path_without_suffix: str | os.PathLike[str], frames: np.ndarray, kind: FramesKind) -> Path:
    """Write frames (T, H, W, 3) uint8 without loss; return the file or folder, which appears complete or not at all.

    An older one of the same name is replaced. The same frames give the same bytes: NumPy dates all entries of its
    archives to 1980. A folder holds `00000.png`, `00001.png` and so on.

    Raises:
        ValueError: frames have another shape or dtype, or `kind` is unknown.
        OSError: the disk refuses.
    """
    target = frames_path(path_without_suffix, kind)
    array = checked_frames(frames)
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        # An open file, as NumPy would append its own ending to a path.
        with atomic_path(target) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **{_KEY: array})
        return target
    with _atomic_folder(target) as folder:
        for number, frame in enumerate(array):
            Image.fromarray(frame).save(folder / f"{number:05d}.png")
    return target


def read_frames(path: str | os.PathLike[str]) -> np.ndarray:
    """Read frames (T, H, W, 3) uint8 from a file or folder that `write_frames` made.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it does not hold such frames.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no frames at '{path}'")
    frames = _read_pngs(path) if path.is_dir() else _read_npz(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"'{path}' does not hold (T, H, W, 3) in uint8 but {frames.shape} in {frames.dtype}")
    return frames


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[_KEY]
    except KeyError as error:
        raise ValueError(f"'{path}' holds no array '{_KEY}'") from error
    except (ValueError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"'{path}' is damaged, or not an npz file") from error


def _read_pngs(folder: Path) -> np.ndarray:
    files = sorted(folder.glob("*.png"))
    expected = [f"{number:05d}.png" for number in range(len(files))]
    if not files or [file.name for file in files] != expected:
        raise ValueError(
            f"'{folder}' is to hold 00000.png and so on without a gap, but it holds {len(files)} png files"
        )
    frames = []
    for file in files:
        try:
            with Image.open(file) as image:
                frames.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            raise ValueError(f"cannot read '{file}' as an image: {error}") from error
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"the images in '{folder}' differ in size")
    return np.stack(frames)


@contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`; it takes `target`'s place when the block ends without an error.

    A file system replaces a folder only if it is empty, so an older one is moved aside for a moment. The temporary
    names are fixed, so that the next run removes what a killed one leaves; a folder has one writer at a time.
    """
    unfinished, aside = (target.with_name(f".{target.name}.{word}") for word in ("unfinished", "replaced"))
    for leftover in (unfinished, aside):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        try:
            if target.is_dir():
                os.rename(target, aside)
            os.rename(unfinished, target)
        except BaseException:
            if aside.exists():
                os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
