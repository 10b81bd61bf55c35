"""Writing and reading videos: how lossy, odd sizes, bad input, and no file left behind by a failure."""

import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from opensora.conditioning.references import check_reference
from opensora.datasets import video_io
from opensora.datasets.video_io import read_video, to_uint8, write_video

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/tables"


def gradient(num_frames: int, height: int, width: int) -> np.ndarray:
    """Smooth frames, gray ramps that brighten by 4 per frame: what a codec keeps best."""
    ramp = np.linspace(20, 180, height)[:, None] + np.linspace(0, 30, width)[None, :]  # (H, W)
    frames = np.stack([ramp + 4 * t for t in range(num_frames)])  # (T, H, W)
    return np.repeat(frames[..., None], 3, axis=-1).astype(np.uint8)


def solid(color: tuple[int, int, int], num_frames: int = 4) -> np.ndarray:
    return np.tile(np.array(color, dtype=np.uint8), (num_frames, 32, 48, 1))


def mean_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize("fps, expected", [(24, 24), (8.5, 8.5), (29.97, 29.97), (Fraction(30000, 1001), 29.97003)])
def test_round_trip_keeps_count_size_and_rate(tmp_path, fps, expected):
    frames = gradient(6, 32, 48)
    path = write_video(tmp_path / "clip.mp4", frames, fps)
    read, read_fps = read_video(path)
    assert path == tmp_path / "clip.mp4"
    assert read.shape == (6, 32, 48, 3) and read.dtype == np.uint8
    assert read_fps == pytest.approx(expected, abs=1e-4)
    assert mean_error(read, frames) < 2
    # Frames are in order: 4 gray levels apart.
    assert np.diff(read.mean(axis=(1, 2, 3))) == pytest.approx([4] * 5, abs=1)


@pytest.mark.parametrize("color", [(200, 40, 90), (10, 220, 30), (30, 60, 240)])
def test_colors_survive_and_the_file_says_how_they_are_coded(tmp_path, color):
    path = write_video(tmp_path / "solid", solid(color), 24)
    read, _ = read_video(path)
    assert mean_error(read, solid(color)) < 3  # reading with another color matrix is off by 10 and more
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)  # BT.709, limited


def test_smaller_crf_is_closer(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 1), dtype=np.uint8).repeat(3, axis=-1)
    errors = []
    for crf in (0, 40):
        read, _ = read_video(write_video(tmp_path / f"{crf}", frames, 24, crf=crf))
        errors.append(mean_error(read, frames))
    assert errors[0] < 2 < 10 < errors[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 5), (8, 8), (8, 9), (9, 64), (127, 129)])
def test_any_size_can_be_written(tmp_path, size):
    height, width = size
    num_frames = 2 if height % 2 else 51
    read, _ = read_video(write_video(tmp_path / "a", gradient(num_frames, height, width), 24))
    assert read.shape == (num_frames, height + height % 2, width + width % 2, 3)


@pytest.mark.parametrize("fps", [0.1, 1 / 3, 1, 7.77, 12.5, 60, 59.94, 240, 1000])
def test_slow_and_fast_rates(tmp_path, fps):
    num_frames = 51 if fps < 24 else 2
    read, read_fps = read_video(write_video(tmp_path / "a", gradient(num_frames, 16, 16), fps))
    assert len(read) == num_frames
    assert read_fps == pytest.approx(fps, rel=1e-4)


def noise(num_frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


WRITE_NOISE = """
import sys
import numpy as np
from opensora.datasets.video_io import write_video
num_frames, height, width = map(int, sys.argv[2:])
frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
write_video(sys.argv[1], frames, 24)
"""


@pytest.mark.parametrize(
    "shape",
    [(51, 64, 64), (20, 130, 140), pytest.param((51, 480, 854), marks=pytest.mark.slow)],
)
def test_the_bytes_depend_on_the_frames_only(tmp_path, shape):
    expected = write_video(tmp_path / "here", noise(*shape), 24).read_bytes()
    # Other processes, with freshly allocated memory full of other bytes, and one of them on a single core.
    first_core = f"taskset --cpu-list {min(os.sched_getaffinity(0))} " if shutil.which("taskset") else ""
    for number, (prefix, filling) in enumerate([("", 0), ("", 85), (first_core, 255)]):
        file = tmp_path / f"{number}.mp4"
        command = [*prefix.split(), sys.executable, "-c", WRITE_NOISE, str(file), *map(str, shape)]
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_PERTURB_": str(filling)}, cwd=ROOT)
        assert file.read_bytes() == expected


def test_a_few_frames_of_a_video_are_those_of_the_whole(tmp_path):
    path = write_video(tmp_path / "a", gradient(20, 32, 32), 24)
    whole, fps = read_video(path)
    few, few_fps = read_video(path, count=3)
    assert (few == whole[[0, 10, 19]]).all() and few_fps == fps
    assert (read_video(path, count=99)[0] == whole).all()
    assert read_video(write_video(tmp_path / "b", gradient(1, 32, 32), 24), count=3)[0].shape == (1, 32, 32, 3)


@pytest.mark.parametrize("height, width", [(33, 48), (32, 47), (33, 47)])
def test_odd_sides_are_extended_by_their_edge(tmp_path, height, width):
    frames = gradient(3, height, width)
    read, _ = read_video(write_video(tmp_path / "odd", frames, 24))
    assert read.shape == (3, height + height % 2, width + width % 2, 3)
    assert mean_error(read[:, :height, :width], frames) < 2
    assert mean_error(read[:, -1, :width], frames[:, -1]) < 4
    assert mean_error(read[:, :height, -1], frames[:, :, -1]) < 4


def test_header_comes_first_so_that_players_can_start_early(tmp_path):
    data = write_video(tmp_path / "clip", gradient(3, 32, 32), 24).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("folder", ["run-10:30:00", "pipe:1", "concat:a|b", "%03d", "-x", "a\nb", "http:", "a?b#c,d"])
def test_a_path_has_no_meaning_but_the_file(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    for frames in (gradient(3, 16, 16), gradient(1, 16, 16)):
        path = write_video(Path(folder) / "a%03d:b", frames, 24)
        assert path.is_file() and len(read_video(path)[0]) == len(frames)
        assert check_reference(path).frames == len(frames)
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_one_frame_is_a_lossless_png(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3), dtype=np.uint8)
    path = write_video(tmp_path / "image.mp4", frame, 24)
    assert path == tmp_path / "image.png"
    assert (np.asarray(Image.open(path)) == frame[0]).all()
    read, fps = read_video(path)
    assert (read == frame).all()
    assert fps == 120


@pytest.mark.parametrize(
    "name, num_frames, written",
    [
        ("a", 2, "a.mp4"),
        ("a", 1, "a.png"),
        ("a.MP4", 2, "a.mp4"),
        ("a.png", 2, "a.mp4"),
        ("a cat. it runs", 2, "a cat. it runs.mp4"),
        ("new/folder/a", 1, "new/folder/a.png"),
    ],
)
def test_path_gets_the_ending_that_fits(tmp_path, name, num_frames, written):
    assert write_video(tmp_path / name, gradient(num_frames, 16, 16), 24) == tmp_path / written
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / written]


def test_tensors_are_written_like_arrays(tmp_path):
    frames = gradient(3, 32, 32)
    a = write_video(tmp_path / "a", frames, 24)
    b = write_video(tmp_path / "b", torch.from_numpy(frames), 24)
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 16, 16, 3), dtype=np.float32),
        torch.zeros(2, 16, 16, 3, dtype=torch.bfloat16),
        np.zeros((16, 16, 3), dtype=np.uint8),
        np.zeros((2, 3, 16, 16), dtype=np.uint8),
        np.zeros((0, 16, 16, 3), dtype=np.uint8),
        np.zeros((2, 0, 16, 3), dtype=np.uint8),
        [],
    ],
)
def test_wrong_frames_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match=r"expected uint8 frames of shape \(T, H, W, 3\).*got"):
        write_video(tmp_path / "a", frames, 24)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -24, 1e-9, float("nan"), float("inf"), "fast", None])
def test_wrong_fps_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match=r"fps must be a positive number of frames per second, 0\.001 or more"):
        write_video(tmp_path / "a", gradient(2, 16, 16), fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [-1, 52, "18", 18.0, None, True])
def test_wrong_crf_is_refused(tmp_path, crf):
    with pytest.raises(ValueError, match="crf must be a whole number from 0"):
        write_video(tmp_path / "a", gradient(2, 16, 16), 24, crf=crf)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_the_older_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a", gradient(2, 16, 16), 24)
    before = path.read_bytes()
    converted = []

    class InterruptedLate:
        @staticmethod
        def from_ndarray(array, format):
            if len(converted) == 70:  # the encoder holds back up to 40 frames before it writes any
                assert len(list(tmp_path.iterdir())) == 2  # the older file and the unfinished one
                raise KeyboardInterrupt
            converted.append(array)
            return VideoFrame.from_ndarray(array, format=format)

    VideoFrame = av.VideoFrame
    monkeypatch.setattr(av, "VideoFrame", InterruptedLate)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, gradient(80, 16, 16), 24)
    assert len(converted) == 70
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_of_the_last_move_leaves_nothing(tmp_path, monkeypatch):
    def refuse(source, target):
        assert os.path.getsize(source) > 0
        raise OSError("disk says no")

    monkeypatch.setattr(video_io.os, "replace", refuse)
    for num_frames in (1, 3):
        with pytest.raises(OSError, match="disk says no"):
            write_video(tmp_path / "a", gradient(num_frames, 16, 16), 24)
    assert not list(tmp_path.iterdir())


def test_reading_what_is_not_there(tmp_path):
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(FileNotFoundError, match="no video file at"):
            read_video(path)


@pytest.mark.parametrize("name, content", [("a.mp4", b""), ("a.mp4", b"text"), ("a.png", b""), ("a.png", b"text")])
def test_reading_what_is_no_video(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*a\.(mp4|png)' as a"):
        read_video(path)


def test_reading_a_truncated_video(tmp_path):
    path = write_video(tmp_path / "a", gradient(6, 32, 32), 24)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match="cannot read|no video frames"):
        read_video(path)


def test_to_uint8_is_the_reference_rounding():
    tensors = load_file(GOLDEN / "save_sample.safetensors")
    pixels = to_uint8(tensors["save_x"])
    assert isinstance(pixels, np.ndarray) and pixels.flags.c_contiguous
    assert (pixels == tensors["save_uint8_thwc"].numpy()).all()


def test_to_uint8_clamps_and_rounds_half_up():
    # -1 -> 0, 0 -> 127.5 + 0.5 = 128, 1 -> 255.5 cut to 255; outside is clamped
    values = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])
    video = values.expand(3, 1, 1, 5)
    assert to_uint8(video)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert values.tolist() == [-9, -1, 0, 1, 9]  # the argument is not changed


def test_to_uint8_computes_in_float32():
    video = torch.linspace(-1, 1, 3 * 2 * 4 * 4).reshape(3, 2, 4, 4).bfloat16()
    assert (to_uint8(video) == to_uint8(video.float())).all()


@pytest.mark.parametrize(
    "video",
    [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4), torch.zeros(3, 2, 4, 4, dtype=torch.uint8)],
)
def test_to_uint8_refuses_other_tensors(video):
    with pytest.raises(ValueError, match=r"expected a float video of shape \(3, T, H, W\)"):
        to_uint8(video)


def test_to_uint8_refuses_nan():
    video = torch.zeros(3, 2, 4, 4)
    video[1, 1, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="contains NaN"):
        to_uint8(video)
