"""Lossless frames: both kinds read back exactly, are stable, and appear whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensora.datasets.frames import frames_path, read_frames, write_frames

KINDS = ("npz", "png")


def noise(num_frames: int = 3, height: int = 9, width: int = 14, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_frames", [1, 3])
def test_frames_are_read_back_exactly(tmp_path, kind, num_frames):
    frames = noise(num_frames)
    path = write_frames(tmp_path / "new" / "a cat. it runs", frames, kind)
    assert path == frames_path(tmp_path / "new" / "a cat. it runs", kind)
    assert (read_frames(path) == frames).all()


def test_the_names(tmp_path):
    assert write_frames(tmp_path / "a", noise(2), "npz").name == "a.frames.npz"
    assert write_frames(tmp_path / "a", noise(2), "png").name == "a.frames"
    names = ["a.frames.npz", "a.frames/00000.png", "a.frames/00001.png"]
    assert sorted(contents(tmp_path)) == names
    with np.load(tmp_path / names[0]) as arrays:
        assert list(arrays) == ["frames"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_depend_on_the_frames_only(tmp_path, kind, monkeypatch):
    write_frames(tmp_path / "a", noise(), kind)
    before = contents(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1e9)  # what zip archives take the date of an entry from
    write_frames(tmp_path / "a", noise(), kind)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_one_is_replaced(tmp_path, kind):
    write_frames(tmp_path / "a", noise(5), kind)
    path = write_frames(tmp_path / "a", noise(2, seed=1), kind)
    assert (read_frames(path) == noise(2, seed=1)).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_frames_are_written_leaves_the_older_ones(tmp_path, monkeypatch):
    write_frames(tmp_path / "a", noise(), "png")
    before = contents(tmp_path)
    save = Image.Image.save

    def fail_late(image, path, *args, **kwargs):
        if Path(path).name == "00002.png":
            raise OSError("disk says no")
        save(image, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fail_late)
    for stem in ("a", "b"):
        with pytest.raises(OSError, match="disk says no"):
            write_frames(tmp_path / stem, noise(seed=1), "png")
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.frames"]


def test_a_failure_of_the_last_move_leaves_the_older_ones(tmp_path, monkeypatch):
    write_frames(tmp_path / "a", noise(), "png")
    before = contents(tmp_path)
    rename = os.rename

    def refuse(source, target):
        if str(source).endswith("unfinished"):
            raise OSError("disk says no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="disk says no"):
        write_frames(tmp_path / "a", noise(seed=1), "png")
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.frames"]


def test_what_a_killed_run_leaves_goes_with_the_next_one(tmp_path):
    (tmp_path / ".a.frames.unfinished").mkdir()
    (tmp_path / ".a.frames.unfinished" / "00007.png").write_bytes(b"")
    path = write_frames(tmp_path / "a", noise(), "png")
    assert list(tmp_path.iterdir()) == [path]
    assert (read_frames(path) == noise()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_frames_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=r"expected uint8 frames of shape \(T, H, W, 3\)"):
        write_frames(tmp_path / "a", noise().astype(np.float32), kind)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'npz' or 'png', not as 'gif'"):
        write_frames(tmp_path / "a", noise(), "gif")


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


def test_reading_a_folder_with_a_gap_or_a_broken_image(tmp_path):
    path = write_frames(tmp_path / "a", noise(), "png")
    (path / "00002.png").write_bytes((path / "00002.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read .*00002\.png"):
        read_frames(path)
    (path / "00001.png").unlink()
    with pytest.raises(ValueError, match="without a gap, but it holds 2 png files"):
        read_frames(path)
