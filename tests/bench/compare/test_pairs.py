"""Which clips of two folders make a pair, and what is read of each: lossless frames before the video, its record."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from bench.compare.pairs import NotCompared, Record, find_clips, match, read_clip, read_record
from opensora.errors import ConfigError

CLIP = np.full((3, 32, 32, 3), 100, np.uint8)


def chosen(folder) -> dict[str, str]:
    return {name: files.path.name for name, files in find_clips(folder).items()}


def test_lossless_frames_come_before_the_video(save):
    save("a", "both", CLIP, "video", "npz")
    save("a", "dump", CLIP, "npz")
    folder = save("a", "video", CLIP, "video")
    assert chosen(folder) == {"both": "both.frames.npz", "dump": "dump.frames.npz", "video": "video.mp4"}
    clips = find_clips(folder)
    assert [clips[name].lossy for name in ("both", "dump", "video")] == [False, False, True]
    assert [clips[name].video is None for name in ("both", "dump", "video")] == [False, True, False]


def test_frames_older_than_the_video_are_of_an_earlier_run(save):
    folder = save("a", "x", CLIP, "npz", "video")
    dump = folder / "x.frames.npz"
    assert chosen(folder) == {"x": "x.frames.npz"}
    written = (folder / "x.mp4").stat().st_mtime
    os.utime(dump, (written - 60, written - 60))
    assert chosen(folder) == {"x": "x.mp4"} and find_clips(folder)["x"].stale == dump


def test_images_are_clips_and_pictures_beside_videos_are_not(save):
    folder = save("a", "image", CLIP[:1], "video")
    (folder / "image.trace.png").write_bytes(b"")
    assert chosen(folder) == {"image": "image.png"}
    save("a", "video", CLIP, "video")
    assert chosen(folder) == {"video": "video.mp4"}  # the png may be a contact sheet
    save("a", "image", CLIP[:1], "video", prompt="a dog")
    assert chosen(folder) == {"image": "image.png", "video": "video.mp4"}


def test_the_contact_sheet_of_a_run_of_images_is_no_clip(save):
    folder = save("a", "image", CLIP[:1], "video", prompt="a dog")
    save("a", "contact_sheet", CLIP[:1], "video")
    assert chosen(folder) == {"image": "image.png"}


def test_pairs_have_the_same_name(save):
    for name in ("one", "two", "three"):
        reference = save("reference", name, CLIP)
    for name in ("two", "three", "four"):
        samples = save("samples", name, CLIP)
    pairs, others = match(reference, samples)
    assert [pair.name for pair in pairs] == ["three", "two"]
    assert others == [NotCompared("four", f"missing in {reference}"), NotCompared("one", f"missing in {samples}")]


def test_one_sided_lossless_frames_give_way_to_two_videos(save):
    for name, kinds in (("a", ["video", "npz"]), ("b", ["npz"]), ("c", ["video"])):
        reference = save("reference", name, CLIP, *kinds)
    for name, kinds in (("a", ["video"]), ("b", ["video"]), ("c", ["video", "npz"])):
        samples = save("samples", name, CLIP, *kinds)
    pairs = match(reference, samples)[0] + match(samples, reference)[0]
    assert [(pair.reference.path.name, pair.sample.path.name) for pair in pairs] == [
        ("a.mp4", "a.mp4"),
        ("b.frames.npz", "b.mp4"),
        ("c.mp4", "c.mp4"),
        ("a.mp4", "a.mp4"),
        ("b.mp4", "b.frames.npz"),
        ("c.mp4", "c.mp4"),
    ]


def test_clips_of_another_prompt_or_seed_are_no_pair(save):
    for name, prompt, seed in (("a", "a dog", 1), ("b", "a cat", 1), ("c", "a dog", 2), ("d", None, 1)):
        samples = save("samples", name, CLIP, prompt=prompt, seed=seed)
        reference = save("reference", name, CLIP, prompt="a dog", seed=1)
    pairs, others = match(reference, samples)
    assert [(pair.name, pair.record.prompt) for pair in pairs] == [("a", "a dog"), ("d", "a dog")]
    assert others == [
        NotCompared("b", "another prompt: 'a cat' instead of the reference's 'a dog'"),
        NotCompared("c", "another seed: 2 instead of the reference's 1"),
    ]


def test_folders_without_a_pair_are_an_error(save, tmp_path):
    reference = save("reference", "one", CLIP)
    for i in range(5):
        samples = save("samples", f"two{i}", CLIP)
    with pytest.raises(ConfigError, match="no clip is in both folders.*holds one, .* two0, two1, two2 and 2 more$"):
        match(reference, samples)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no clips in .*empty': it holds no"):
        match(reference, tmp_path / "empty")
    with pytest.raises(ConfigError, match="no folder at .*nowhere"):
        match(tmp_path / "nowhere", samples)


FRAMES = np.arange(2 * 32 * 32 * 3, dtype=np.uint16).astype(np.uint8).reshape(2, 32, 32, 3)


def test_lossless_frames_come_back_unchanged(save):
    folder = save("a", "x", FRAMES, "npz", "video")
    save("a", "y", FRAMES[:1], "video")
    assert np.array_equal(read_clip(folder / "x.frames.npz"), FRAMES)
    assert np.array_equal(read_clip(folder / "y.png"), FRAMES[:1])
    assert read_clip(folder / "x.mp4").shape == FRAMES.shape


def test_damaged_dumps_are_named(tmp_path):
    path = tmp_path / "x.frames.npz"
    np.savez_compressed(path, frames=FRAMES)
    whole = path.read_bytes()
    for damaged in (b"", b"junk", whole[: len(whole) // 2], whole[:200] + b"\0" * 50 + whole[250:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="^'x.frames.npz' is damaged, or not an npz file$"):
            read_clip(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"video": FRAMES}, "holds no array 'frames'"),
        ({"frames": FRAMES.astype(np.float32)}, r"but \(2, 32, 32, 3\) in float32"),
        ({"frames": FRAMES[..., 0]}, r"but \(2, 32, 32\) in uint8"),
        ({"frames": FRAMES[:0]}, r"but \(0, 32, 32, 3\) in uint8"),
        ({"frames": np.array([{}])}, "is damaged, or not an npz file"),  # pickles are not opened
    ],
)
def test_dumps_of_something_else_are_refused(tmp_path, arrays, message):
    path = tmp_path / "x.frames.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        read_clip(path)


def test_a_record_tells_prompt_and_seed(save):
    path = save("a", "x", FRAMES, prompt="a dog", seed=7) / "x.json"
    assert read_record(path) == Record("x.mp4", "a dog", 7)


@pytest.mark.parametrize(
    "data", ["{", "[1]", "1", "{}", '{"metadata": 3}', '{"metadata": {"prompt": 3, "seed": true, "config": []}}']
)
def test_a_file_that_is_no_record_tells_nothing(tmp_path, data):
    (tmp_path / "x.json").write_text(data)
    assert read_record(tmp_path / "x.json") == read_record(tmp_path / "none.json") == Record()


def test_what_a_record_does_not_tell_is_none(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"metadata": {"prompt": "a dog", "config": {}}}))
    assert read_record(tmp_path / "x.json") == Record(prompt="a dog")
