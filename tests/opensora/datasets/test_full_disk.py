"""A disk that refuses in the middle of a file: every writer says so and leaves nothing.

Files are limited in size instead, which the operating system enforces in the same calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from opensora.datasets.contact_sheet import Strip, grid, save_sheet
from opensora.datasets.preview import write_preview
from opensora.datasets.video_io import write_frames, write_video

resource = pytest.importorskip("resource", reason="file sizes can be limited on Unix only")

FRAMES = np.random.default_rng(0).integers(0, 256, (51, 64, 64, 3), dtype=np.uint8)


WRITERS = {
    "mp4": lambda stem: write_video(stem, FRAMES, 24),
    "png": lambda stem: write_video(stem, FRAMES[:1], 24),
    "frames": lambda stem: write_frames(stem, FRAMES),
    "preview webp": lambda stem: write_preview(stem, FRAMES, 24, "webp"),
    "preview apng": lambda stem: write_preview(stem, FRAMES, 24, "apng"),
    "sheet": lambda stem: save_sheet([grid([Strip(FRAMES[0], "a")])], stem.with_suffix(".png")),
}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """The most bytes a file may have; in the block only, as pytest's own output may go into a file, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [0, 1000, 10_000])
def test_a_full_disk_leaves_nothing(tmp_path, name, limit):
    with full_disk(limit), pytest.raises(OSError) as caught:
        WRITERS[name](tmp_path / "a")
    assert caught.value.errno is not None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", [1, 1000])
def test_an_mp4_is_not_taken_for_complete_if_its_last_bytes_are_missing(tmp_path, missing):
    path = write_video(tmp_path / "a", FRAMES, 24)
    whole = path.read_bytes()
    with full_disk(len(whole) - missing), pytest.raises(OSError):
        write_video(tmp_path / "a", FRAMES, 24)
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
