from __future__ import annotations

import json

import numpy as np
import pytest

from bench.compare.pairs import Record, read_clip, read_record

FRAMES = np.arange(2 * 32 * 32 * 3, dtype=np.uint16).astype(np.uint8).reshape(2, 32, 32, 3)


def test_lossless_frames_come_back_unchanged(save):
    frames, fps = read_clip(save("a", "x", FRAMES) / "x.frames.npz")
    assert np.array_equal(frames, FRAMES) and fps is None


def test_a_video_has_a_frame_rate_and_an_image_has_none(save):
    folder = save("a", "x", FRAMES, "video")
    save("a", "y", FRAMES[:1], "video")
    frames, fps = read_clip(folder / "x.mp4")
    assert frames.shape == FRAMES.shape and fps == 8
    frames, fps = read_clip(folder / "y.png")
    assert np.array_equal(frames, FRAMES[:1]) and fps is None


def test_damaged_dumps_are_named(tmp_path):
    path = tmp_path / "x.frames.npz"
    np.savez_compressed(path, frames=FRAMES)
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2], whole[:200] + b"\0" * 50 + whole[250:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="^'x.frames.npz' is damaged, or no npz file$"):
            read_clip(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"video": FRAMES}, "holds no array 'frames'"),
        ({"frames": FRAMES.astype(np.float32)}, r"but \(2, 32, 32, 3\) in float32"),
        ({"frames": FRAMES[..., 0]}, r"but \(2, 32, 32\) in uint8"),
        ({"frames": FRAMES[:0]}, r"but \(0, 32, 32, 3\) in uint8"),
        ({"frames": np.array([{}])}, "is damaged, or no npz file"),  # pickles are not opened
    ],
)
def test_dumps_of_something_else_are_refused(tmp_path, arrays, message):
    path = tmp_path / "x.frames.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_clip(path)


def test_a_record_tells_prompt_seed_and_frame_rate(save):
    path = save("a", "x", FRAMES, prompt="a dog", seed=7) / "x.json"
    assert read_record(path) == Record("x.mp4", "a dog", 7, 8.0)


@pytest.mark.parametrize(
    "data", ["{", "[1]", "1", "{}", '{"metadata": 3}', '{"metadata": {"prompt": 3, "seed": true, "config": []}}']
)
def test_a_file_that_is_no_record_tells_nothing(tmp_path, data):
    (tmp_path / "x.json").write_text(data)
    assert read_record(tmp_path / "x.json") == read_record(tmp_path / "none.json") == Record()


def test_what_a_record_does_not_tell_is_none(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"metadata": {"prompt": "a dog", "config": {}}}))
    assert read_record(tmp_path / "x.json") == Record(prompt="a dog")
