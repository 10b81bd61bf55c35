from __future__ import annotations

import json

import numpy as np
import pytest

from bench.compare.pairs import NotCompared
from bench.compare.vbench import export_vbench, video_names
from opensora.errors import ConfigError

CLIP = np.full((2, 32, 32, 3), 100, np.uint8)


def test_names_count_the_videos_of_a_prompt():
    assert video_names(["a dog", "a cat", "a dog", "A Dog"]) == [
        "a dog-0.mp4",
        "a cat-0.mp4",
        "a dog-1.mp4",
        "A Dog-2.mp4",
    ]


def test_names_that_a_file_cannot_have_are_mended_and_stay_different():
    assert video_names(["24/7\nradio", "24_7_radio", ""]) == ["24_7_radio-0.mp4", "24_7_radio-1.mp4", "_-0.mp4"]
    long = video_names(["x" * 300, "x" * 299 + "y", "ä" * 200])
    assert long[0][:-6] == long[1][:-6] and [name[-6:] for name in long] == ["-0.mp4", "-1.mp4", "-0.mp4"]
    assert all(len(name.encode()) <= 241 for name in long) and set(long[2][:-6]) == {"ä"}


def test_what_the_standard_suite_asks_for_is_kept_as_it_is():
    prompt = 'A person\'s "tea", 3:1? in *style* | <b>'
    assert video_names([prompt]) == [f"{prompt}-0.mp4"]


def test_videos_and_prompts_are_exported_and_nothing_else(save, tmp_path):
    long = "a dog that " + "runs and " * 40
    prompts = {"s0": "a dog", "s1": "a cat/dog", "s2": "a dog", "s3": long}
    for name, prompt in prompts.items():
        samples = save("samples", name, CLIP, "video", "npz", prompt=prompt)
    save("samples", "s4", CLIP, "npz", prompt="no video")
    save("samples", "s5", CLIP, "video")
    save("samples", "s6", CLIP[:1], "video", prompt="an image")
    result = export_vbench(samples, tmp_path / "out")

    assert result.left_out == [
        NotCompared("s4", "no mp4"),
        NotCompared("s5", "no prompt: s5.json is missing or holds none"),
        NotCompared("s6", "no mp4"),
    ]
    videos = tmp_path / "out" / "videos"
    data = json.loads((tmp_path / "out" / "prompts.json").read_text(encoding="ascii"))
    assert data == result.prompts and set(data) == {path.name for path in videos.iterdir()}
    assert sorted(data.values()) == sorted(prompts.values())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prompts.json", "videos"]
    assert (videos / "a dog-1.mp4").read_bytes() == (samples / "s2.mp4").read_bytes()
    assert data["a cat_dog-0.mp4"] == "a cat/dog"
    assert len(result.notes) == 1 and result.notes[0].startswith("2 prompts are too long for a file name or hold")

    assert export_vbench(samples, tmp_path / "out").prompts == result.prompts  # again, in place of the first
    (videos / "another.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds other files, e.g. 'another.mp4'"):
        export_vbench(samples, tmp_path / "out")


def test_more_videos_than_the_standard_suite_reads_are_noted(save, tmp_path):
    for i in range(6):
        samples = save("samples", f"s{i}", CLIP, "video", prompt="a dog", seed=i)
    (note,) = export_vbench(samples, tmp_path / "out").notes
    assert note == "VBench's standard suite reads 5 videos of a prompt; one has 6"


def test_nothing_to_export_is_an_error(save, tmp_path):
    samples = save("samples", "x", CLIP, "npz", prompt="a dog")
    with pytest.raises(ConfigError, match="nothing to export in .*: x has no mp4"):
        export_vbench(samples, tmp_path / "out")
    assert not (tmp_path / "out").exists()
