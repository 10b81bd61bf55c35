"""Pair the clips of two folders, and read their frames and records as a sampling run leaves them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from opensora.datasets.video_io import FRAMES_SUFFIX, IMAGE_SUFFIX, VIDEO_SUFFIX, read_frames, read_video
from opensora.errors import ConfigError

# Seconds by which lossless frames may be older than the video of the same name; a run writes them after the video, but
# copying a folder may not keep the order.
STALE_AFTER = 2.0
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class ClipFiles:
    """The files of one clip.

    Attributes:
        name: without any ending.
        path: file that its frames are read from: the lossless dump if there is one, else the video, else the image.
        video: the mp4, if there is one.
        stale: a dump that is ignored because the video is newer, so that it must be of an earlier run.
    """

    name: str
    path: Path
    video: Path | None
    record: Record
    stale: Path | None = None

    @property
    def lossy(self) -> bool:
        """Whether the frames come from a compressed video."""
        return self.path == self.video


@dataclass(frozen=True)
class Pair:
    """A sample and what it is compared with."""

    reference: ClipFiles
    sample: ClipFiles

    @property
    def name(self) -> str:
        """The name both have."""
        return self.sample.name

    @property
    def record(self) -> Record:
        """The sample's record, or the reference's if the sample has none."""
        return self.sample.record if self.sample.record != Record() else self.reference.record


@dataclass(frozen=True)
class NotCompared:
    """A clip that has no result, and why."""

    name: str
    reason: str


def find_clips(folder: Path) -> dict[str, ClipFiles]:
    """Find the clips of a folder by name, in alphabetical order.

    Plots of traces are not clips. If the folder has videos, or records of a sampling run, pngs count only if a record
    names them, as contact sheets are pngs, too.

    Raises:
        ConfigError: there is no such folder, or it has no clip.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder at '{folder}'")
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = _suffix(path)
        if suffix and path.is_file():
            files.setdefault(path.name[: -len(suffix)], {})[suffix] = path
    records = {name: read_record(folder / f"{name}.json") for name in files}
    any_video = any(VIDEO_SUFFIX in found or FRAMES_SUFFIX in found for found in files.values())
    of_a_run = any_video or any(record.video for record in records.values())
    clips = {}
    for name, found in files.items():
        image = found.get(IMAGE_SUFFIX)
        if len(found) == 1 and image and of_a_run and records[name].video != image.name:
            continue
        clips[name] = _clip(name, found, records[name])
    if not clips:
        raise ConfigError(f"no clips in '{folder}': it holds no *{VIDEO_SUFFIX}, *{FRAMES_SUFFIX} or *{IMAGE_SUFFIX}")
    return clips


def match(reference: Path, samples: Path) -> tuple[list[Pair], list[NotCompared]]:
    """Return pairs of the same name, and the clips that have no partner or one of another prompt or seed.

    Raises:
        ConfigError: a folder does not exist or is empty, or no name is in both.
    """
    references, sampled = find_clips(reference), find_clips(samples)
    if not references.keys() & sampled.keys():
        raise ConfigError(
            f"no clip is in both folders: '{reference}' holds {_some(references)}, '{samples}' {_some(sampled)}"
        )
    pairs, others = [], []
    for name in sorted(references.keys() | sampled.keys()):
        if name not in sampled:
            others.append(NotCompared(name, f"missing in {samples}"))
        elif name not in references:
            others.append(NotCompared(name, f"missing in {reference}"))
        else:
            pair = Pair(*_alike(references[name], sampled[name]))
            reason = _mismatch(pair.reference.record, pair.sample.record)
            if reason:
                others.append(NotCompared(name, reason))
            else:
                pairs.append(pair)
    return pairs, others


def _suffix(path: Path) -> str | None:
    name = path.name.lower()
    if name.startswith(".") or name.endswith(".trace.png"):
        return None
    return next((suffix for suffix in (FRAMES_SUFFIX, VIDEO_SUFFIX, IMAGE_SUFFIX) if name.endswith(suffix)), None)


def _clip(name: str, found: dict[str, Path], record: Record) -> ClipFiles:
    dump, video, image = (found.get(suffix) for suffix in (FRAMES_SUFFIX, VIDEO_SUFFIX, IMAGE_SUFFIX))
    if dump and video and dump.stat().st_mtime < video.stat().st_mtime - STALE_AFTER:
        return ClipFiles(name, video, video, record, stale=dump)
    return ClipFiles(name, dump or video or image, video, record)


def _alike(reference: ClipFiles, sample: ClipFiles) -> tuple[ClipFiles, ClipFiles]:
    """Return both clips, as videos if only one has lossless frames: the common effects of compression cancel out."""
    if reference.lossy and sample.video:
        return reference, replace(sample, path=sample.video)
    if sample.lossy and reference.video:
        return replace(reference, path=reference.video), sample
    return reference, sample


def _mismatch(reference: Record, sample: Record) -> str | None:
    """Say why two clips of one name are not of the same noise and text, if their records show it."""
    for what, expected, got in (("prompt", reference.prompt, sample.prompt), ("seed", reference.seed, sample.seed)):
        if None not in (expected, got) and expected != got:
            return f"another {what}: {got!r} instead of the reference's {expected!r}"
    return None


def _some(names: dict[str, ClipFiles]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


@dataclass(frozen=True)
class Record:
    """What the JSON file beside a clip says; None for what it does not say."""

    video: str | None = None  # file name
    prompt: str | None = None
    seed: int | None = None


def read_clip(path: Path) -> np.ndarray:
    """Read frames (F, H, W, 3) uint8.

    Raises:
        ValueError: the file cannot be read as a clip.
        OSError: the file cannot be opened.
    """
    return read_frames(path) if path.name.endswith(FRAMES_SUFFIX) else read_video(path)[0]


def read_record(path: Path) -> Record:
    """Read the record at `path`; it is empty if there is none, or if it is not from a sampling run."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, KeyError, TypeError):
        return Record()
    if not isinstance(metadata, dict):
        return Record()
    return Record(
        video=_of_type(metadata.get("video"), str),
        prompt=_of_type(metadata.get("prompt"), str),
        seed=_of_type(metadata.get("seed"), int),
    )


def _of_type(value: Any, *types: type) -> Any:
    return value if isinstance(value, types) and not isinstance(value, bool) else None
