"""Lossless frames: read back exactly, stable, and refused if they are something else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from opensora.datasets.video_io import read_frames, write_frames


def noise(num_frames: int = 3, height: int = 9, width: int = 14, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("num_frames", [1, 3])
def test_frames_are_read_back_exactly(tmp_path, num_frames):
    frames = noise(num_frames)
    path = write_frames(tmp_path / "new" / "a cat. it runs", frames)
    assert path == tmp_path / "new" / "a cat. it runs.frames.npz"
    assert (read_frames(path) == frames).all()


def test_the_names(tmp_path):
    path = write_frames(tmp_path / "a", noise(2))
    assert path.name == "a.frames.npz"
    with np.load(path) as arrays:
        assert list(arrays) == ["frames"]


def test_the_bytes_depend_on_the_frames_only(tmp_path, monkeypatch):
    write_frames(tmp_path / "a", noise())
    before = contents(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1e9)  # what zip archives take the date of an entry from
    write_frames(tmp_path / "a", noise())
    assert contents(tmp_path) == before


def test_an_older_one_is_replaced(tmp_path):
    write_frames(tmp_path / "a", noise(5))
    path = write_frames(tmp_path / "a", noise(2, seed=1))
    assert (read_frames(path) == noise(2, seed=1)).all()
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected uint8 frames of shape \(T, H, W, 3\)"):
        write_frames(tmp_path / "a", noise().astype(np.float32))
    assert not list(tmp_path.iterdir())


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no frames at"):
        read_frames(tmp_path / "a.frames.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_reading_what_is_no_archive(tmp_path, content):
    path = tmp_path / "a.frames.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or not an npz file"):
        read_frames(path)


def test_reading_an_archive_of_something_else(tmp_path):
    path = tmp_path / "a.frames.npz"
    np.savez(path, frames=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"does not hold \(T, H, W, 3\) in uint8 but \(2, 3\) in float64"):
        read_frames(path)
    np.savez(path, other=noise())
    with pytest.raises(ValueError, match="holds no array 'frames'"):
        read_frames(path)
    np.save(tmp_path / "a.npy", noise())  # an array, no archive
    with pytest.raises(ValueError, match="is damaged, or not an npz file"):
        read_frames(tmp_path / "a.npy")
