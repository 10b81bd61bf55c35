"""References: images and videos that latent frames are taken from instead of being sampled.

A file's content says what it is, not its name. Photos are turned as their EXIF data asks, which upstream does not do;
the rotation in a video's metadata is ignored, as upstream does. Nothing here imports torch, as references are checked
before anything heavy is loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opensora.conditioning.mask_strategy import (
    check_mask_strategy,
    check_placement,
    default_mask_strategy,
    parse_mask_strategy,
)
from opensora.conditioning.reference_frames import AnimatedImage, NotReadable, StillImage, VideoFile, open_reference
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.files import find_path, is_utf8

MAX_PIXELS = 100_000_000  # of an image or frame; a small file can claim more than fits into any memory
MAX_RATIO = 50  # of the sides; to cover a video, a narrower image would be resized to about as many pixels
SEPARATOR = ";"  # between the references of one prompt


@dataclass(frozen=True)
class ReferenceInfo:
    """Kind and size of a reference.

    Attributes:
        width, height: in pixels; of a photo, as it is shown.
        frames: number of frames; 1 for an image, None if the header of a video does not say.
    """

    path: Path
    kind: Literal["image", "video"]
    width: int
    height: int
    frames: int | None


def split_references(text: str) -> list[str]:
    """Split the references of one prompt, "a.png;b.mp4"; an empty text has none.

    Raises:
        ConfigError: one of several is empty, which would shift the numbers of the others.
    """
    if not text.strip():
        return []
    references = [reference.strip() for reference in text.split(SEPARATOR)]
    if not all(references):
        raise ConfigError(f"reference_path '{text}' has an empty entry; put one '{SEPARATOR}' between two paths")
    return references


def resolve_reference(text: str, base: Path | None) -> Path:
    """Return the file that `text` names: beside the prompt file (in `base`), or else where `find_path` looks.

    A path without a file is returned unchanged; `check_reference` refuses it.
    """
    try:
        path = Path(text).expanduser()
        if base is not None and (base / path).exists():
            return base / path
        return find_path(path) or path
    except (OSError, RuntimeError):  # a name that is too long, or "~nobody"
        return Path(text)


def check_reference(path: str | os.PathLike[str]) -> ReferenceInfo:
    """Return what a reference is, after decoding it: an image as a whole, a video up to its first frame.

    Raises:
        ConfigError: the file does not exist, is not a regular, readable and whole one, is neither an image nor a video,
            or is too large.
    """
    path = Path(path)
    with opened_reference(path) as source:
        source.check()
        kind = "image" if isinstance(source, StillImage) else "video"
        return ReferenceInfo(path, kind, source.width, source.height, source.num_frames)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file's content, in hexadecimal digits.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"reference '{path}' cannot be read ({_reason(error)})") from error


@contextmanager
def opened_reference(path: Path) -> Iterator[StillImage | AnimatedImage | VideoFile]:
    """Open a reference, check its size, and close it at the end of the block.

    Raises:
        ConfigError: it cannot be used, or something in the block cannot be read.
    """
    try:
        _check_file(path)
        with closing(open_reference(path)) as source:
            problem = _size_problem(source.width, source.height)
            if problem:
                raise NotReadable(f"is {source.width}x{source.height} pixels, {problem}")
            yield source
    except NotReadable as error:
        raise ConfigError(f"reference '{path}' {error}") from error


def _size_problem(width: int, height: int) -> str | None:
    if not min(width, height):
        return "so that there is nothing to see"
    if width * height > MAX_PIXELS:
        return f"more than {MAX_PIXELS // 1_000_000} million; make it smaller"
    if max(width, height) > MAX_RATIO * min(width, height):
        return "too narrow to fill a video; crop it"
    return None


def _check_file(path: Path) -> None:
    text = str(path)
    try:
        if path.is_dir():
            raise NotReadable("is a folder; give an image or a video")
        if not path.exists():
            is_url = "://" in text or text.startswith(("http:/", "https:/"))
            raise NotReadable("is a URL; download it and give the file" if is_url else "does not exist")
        if not is_utf8(path.resolve()):
            raise NotReadable("has a name, or a folder, that is not UTF-8, so that no record could name it; rename it")
        if not path.is_file():
            raise NotReadable("is not a regular file")
        with path.open("rb") as file:
            if not file.read(1):
                raise NotReadable("is empty")
    except OSError as error:
        raise NotReadable(f"cannot be read ({_reason(error)})") from error


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def fitting_mask_strategy(mask_strategy: str, references: Sequence[ReferenceInfo], config: SampleConfig) -> str:
    """Return the mask strategy of a sample's references, their default one for "", if it fits the video of `config`.

    Raises:
        ValueError: it does not; one sentence says why.
    """
    vae, align = config.vae, config.align if config.compat or config.vae.micro_frame_size else None
    if references and not mask_strategy:
        are_videos = [info.kind == "video" for info in references]
        frames = vae.frames_per_chunk(config.num_frames)
        for index, info in enumerate(references):
            if info.kind == "video" and info.frames is not None and info.frames < frames:
                raise ValueError(
                    f"reference {index} has {info.frames} frames, but without a mask strategy {frames} of a video are "
                    "taken; give a longer one, or a mask strategy that takes fewer"
                )
        chunk = vae.latent_frames(frames)
        mask_strategy = default_mask_strategy(are_videos, chunk, config.loop)
    check_mask_strategy(mask_strategy, len(references))
    lengths = [_latents_of(index, info, mask_strategy, config) for index, info in enumerate(references)]
    loops = config.loop, config.condition_frame_length, config.condition_frame_edit
    check_placement(mask_strategy, vae.latent_frames(config.num_frames), lengths, align, *loops, config.compat)
    return mask_strategy


def _latents_of(reference: int, info: ReferenceInfo, mask_strategy: str, config: SampleConfig) -> int | None:
    """Return how many latent frames are made of a reference; None where its number of frames is not known.

    Raises:
        ConfigError: as `part_of_reference`.
    """
    if info.frames is None or info.kind == "image":
        return info.frames
    left_out = part_of_reference(mask_strategy, reference, config).first_frame(info.frames)
    return config.vae.latent_frames(info.frames - left_out)


@dataclass(frozen=True)
class ReferencePart:
    """The frames of a reference video that have to be read and encoded.

    Attributes:
        max_frames: how many frames to read, from the first one; None reads all.
        last_frames: how many of those to keep at most, the last ones; None keeps all.
        chunk: frames of a chunk, if whole chunks are counted back from the last frame; None counts them from the first.
    """

    max_frames: int | None = None
    last_frames: int | None = None
    chunk: int | None = None

    def first_frame(self, num_frames: int) -> int:
        """Return the index of the first frame to encode of a video with `num_frames`, or of those that were kept."""
        if self.chunk is None or num_frames < self.chunk:
            return 0
        whole_chunks = num_frames // self.chunk * self.chunk
        return num_frames - (whole_chunks if self.last_frames is None else min(whole_chunks, self.last_frames))


WHOLE = ReferencePart()


def part_of_reference(mask_strategy: str, reference: int, config: SampleConfig) -> ReferencePart:
    """Return the part that is needed of the video `reference` (counted from 0); with `compat` all of it, as upstream.

    Raises:
        ConfigError: some entries count from its beginning and others from its end; chunks cannot fit both.
    """
    chunk = config.vae.frames_per_chunk(config.num_frames)
    of_chunk = config.vae.latent_frames(chunk)
    entries = [entry for entry in parse_mask_strategy(mask_strategy) if entry.ref_id == reference]
    if config.compat or not entries:
        return WHOLE
    if all(entry.ref_start < 0 for entry in entries):
        # Alignment moves a start down to a multiple of `align`, which has to mean the same in a part as in the whole.
        is_part_aligned = not config.vae.micro_frame_size or of_chunk % config.align == 0
        latents = max(-entry.ref_start for entry in entries)
        return ReferencePart(last_frames=-(-latents // of_chunk) * chunk if is_part_aligned else None, chunk=chunk)
    if any(entry.ref_start < 0 for entry in entries):
        raise ConfigError(
            f"mask strategy '{mask_strategy}' counts frames of reference {reference} both from its beginning and from "
            "its end; give the video twice, separated by ';', one for each"
        )
    # Alignment moves a start up by less than `align`, and not into the last block.
    latents = max(entry.ref_start + entry.length for entry in entries) + (config.align or 0)
    return ReferencePart(max_frames=(-(-latents // of_chunk) + 2) * chunk)
