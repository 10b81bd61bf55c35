"""Animated previews: they repeat forever, last as long as the video, and appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensora.datasets.preview import preview_path, write_preview

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("webp", "apng")


def noise(num_frames: int = 5, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def read(path: Path) -> tuple[np.ndarray, list[float], int]:
    """Frames, milliseconds of each, and the number of repeats (0: forever)."""
    frames, durations = [], []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations, image.info["loop"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_frames, fps", [(2, 1), (17, 8), (51, 24), (30, 29.97), (61, 60), (90, 90), (3, 0.1)])
def test_it_lasts_as_long_as_the_video(tmp_path, kind, num_frames, fps):
    frames, durations, loop = read(write_preview(tmp_path / "a", noise(num_frames), fps, kind))
    assert len(frames) == num_frames and loop == 0
    assert sum(durations) == round(1000 * num_frames / fps)
    assert max(durations) - min(durations) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_browsers_would_slow_down_are_left_out(tmp_path, kind):
    frames, durations, _ = read(write_preview(tmp_path / "a", noise(100), 120, kind))
    assert len(frames) == 50
    assert sum(durations) == round(1000 * 100 / 120) and min(durations) > 10


def test_an_apng_is_lossless_and_a_webp_near(tmp_path):
    smooth = np.linspace(0, 250, 64 * 64).reshape(64, 64).astype(np.uint8)
    clip = np.stack([np.roll(smooth, 3 * t, axis=0) for t in range(4)])[..., None].repeat(3, axis=-1)
    assert (read(write_preview(tmp_path / "a", clip, 8, "apng"))[0] == clip).all()
    near, _, _ = read(write_preview(tmp_path / "a", clip, 8, "webp"))
    assert np.abs(near.astype(int) - clip).mean() < 4


@pytest.mark.parametrize("kind", KINDS)
def test_large_frames_are_made_smaller(tmp_path, kind):
    frames, _, _ = read(write_preview(tmp_path / "a", noise(2, 90, 160), 8, kind, max_side=80))
    assert frames.shape == (2, 45, 80, 3)
    frames, _, _ = read(write_preview(tmp_path / "a", noise(2, 30, 20), 8, kind, max_side=80))
    assert frames.shape == (2, 30, 20, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_without_motion_and_a_single_frame(tmp_path, kind):
    for clip in (noise(1).repeat(4, axis=0), noise(1)):
        with Image.open(write_preview(tmp_path / "a", clip, 8, kind)) as image:
            assert image.size == (30, 20)


def test_the_names(tmp_path):
    assert write_preview(tmp_path / "new" / "a cat. it", noise(), 8, "webp").name == "a cat. it.preview.webp"
    assert preview_path("sample_0000", "apng").name == "sample_0000.preview.png"


WRITE = """
import sys
import numpy as np
from opensora.datasets.preview import write_preview
frames = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
write_preview(sys.argv[1], frames, 24, sys.argv[2])
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_depend_on_the_frames_only(tmp_path, kind):
    here = write_preview(tmp_path / "here", noise(), 24, kind)
    command = [sys.executable, "-c", WRITE, str(tmp_path / "there"), kind]
    subprocess.run(command, check=True, env=os.environ | {"MALLOC_PERTURB_": "85"}, cwd=ROOT)
    assert preview_path(tmp_path / "there", kind).read_bytes() == here.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path, kind, monkeypatch):
    path = write_preview(tmp_path / "a", noise(), 8, kind)
    before = path.read_bytes()

    def fail(image, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError("disk says no")

    monkeypatch.setattr(Image.Image, "save", fail)
    for stem in ("a", "b"):
        with pytest.raises(OSError, match="disk says no"):
            write_preview(tmp_path / stem, noise(2), 8, kind)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "gif"}, "'webp' or 'apng', not 'gif'"),
        ({"fps": 0}, "fps must be a positive number"),
        ({"fps": 0.01}, r"fps=0\.01.* is too slow for a preview"),
        ({"frames": noise().astype(float)}, "expected uint8 frames"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_preview(tmp_path / "a", **{"frames": noise(), "fps": 8, **arguments})
    assert not list(tmp_path.iterdir())
