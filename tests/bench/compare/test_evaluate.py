"""Two folders in, results out: values, what was not compared, and the files that are written."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from bench.compare.bootstrap import interval
from bench.compare.evaluate import evaluate, remarks, table, to_dict, write
from opensora.errors import ConfigError

REFERENCE = np.full((3, 48, 64, 3), 100, np.uint8)


def decibel(offset: float) -> float:
    """PSNR of a constant offset."""
    return 20 * np.log10(255 / offset)


def compare(reference, samples):
    return evaluate(reference, samples, progress=False)


@pytest.fixture
def folders(save):
    """Offsets 1 and 2 of one prompt, 4 of another; and one of each way to fail."""
    for name, offset, prompt in (("a0", 1, "a dog"), ("a1", 2, "a dog"), ("b0", 4, "a cat")):
        reference = save("reference", name, REFERENCE, prompt=prompt)
        samples = save("samples", name, REFERENCE + np.uint8(offset), prompt=prompt)
    save("reference", "alone", REFERENCE)
    for name in ("damaged", "short"):
        save("reference", name, REFERENCE)
        save("samples", name, REFERENCE[:2])
    (samples / "damaged.frames.npz").write_bytes(b"junk")
    return reference, samples


REASONS = {
    "damaged": "unreadable sample: 'damaged.frames.npz' is damaged, or not an npz file",
    "short": "another size: 2 frames of 48 x 64 instead of 3 frames of 48 x 64",
}


def test_values_means_and_what_was_not_compared(folders):
    result = compare(*folders)
    assert [clip.pair.name for clip in result.clips] == ["a0", "a1", "b0"]
    assert [clip.values["psnr"] for clip in result.clips] == pytest.approx([decibel(1), decibel(2), decibel(4)])
    assert {clip.name: clip.reason for clip in result.not_compared} == {
        "alone": f"missing in {folders[1]}",
        **REASONS,
    }
    # A prompt counts once, however many clips it has.
    mean = result.mean("psnr")
    assert (mean.mean, mean.low, mean.high) == pytest.approx(interval([(decibel(1) + decibel(2)) / 2, decibel(4)]))
    assert mean.num_clips == 3
    assert result.keys == ["psnr", "ssim", "ms_ssim", "flicker"]


def test_of_a_single_prompt_no_interval_is_told(save):
    samples = save("samples", "x", REFERENCE, prompt="a dog")
    save("samples", "y", REFERENCE, prompt="a dog")
    mean = compare(samples, samples).mean("psnr")
    assert (mean.mean, mean.low, mean.high, mean.num_clips) == (pytest.approx(80), None, None, 2)


def test_lossless_frames_are_compared_where_both_have_them(save):
    noise = np.random.default_rng(0).integers(0, 256, REFERENCE.shape, dtype=np.uint8)
    reference = save("reference", "x", noise, "video", "npz")
    samples = save("samples", "x", noise, "video", "npz")
    save("reference", "y", noise, "npz")
    save("samples", "y", noise, "video")
    result = compare(reference, samples)
    assert result.clips[0].values["psnr"] == pytest.approx(80)
    assert result.clips[1].values["psnr"] < 30
    (note,) = [note for note in result.notes if "mp4" in note]
    assert (
        note.startswith("1 of 2 pairs were read from mp4, whose compression lowers and caps PSNR")
        and "--save-frames" in note
    )


def test_no_note_on_compression_without_any(folders):
    assert not any("mp4" in note for note in compare(*folders).notes)


def test_captions_of_the_little_world_are_checked(save):
    frames = np.zeros((17, 128, 128, 3), np.uint8)
    folder = save("a", "x", frames, prompt="a still red square on a black background")
    result = compare(folder, folder)
    assert result.clips[0].values["caption_right"] == 0
    assert 0 < result.clips[0].values["caption_items"] < 1  # the background is right
    assert result.keys[-2:] == ["caption_items", "caption_right"]


def test_the_table_has_a_line_per_clip_and_the_means(folders):
    result = compare(*folders)
    lines = [line.split() for line in table(result).splitlines()]
    assert lines[0] == ["clip", "PSNR", "dB", "SSIM", "MS-SSIM", "flicker"]
    assert [line[0] for line in lines[2:5]] == ["a0", "a1", "b0"]
    assert lines[2][1] == f"{decibel(1):.2f}" and lines[2][4] == "0.000"
    mean = result.mean("psnr")
    assert [line[-4] for line in lines[6:]] == [f"{value:.2f}" for value in (mean.mean, mean.low, mean.high)]
    assert len({len(line) for line in table(result).splitlines()}) == 1
    told = remarks(result)
    assert "not compared, 3 of 6:" in told and f"  short: {REASONS['short']}" in told and "note: MS-SSIM at" in told


def test_long_names_keep_both_ends_in_the_table(save):
    folder = save("a", "the same beginning " * 4 + "_0017", REFERENCE)
    assert table(compare(folder, folder)).splitlines()[2].startswith("the same beginning...me beginning _0017  ")


def test_json_holds_everything(folders, tmp_path):
    result = compare(*folders)
    path = tmp_path / "new" / "results.json"
    write(result, path)
    data = json.loads(path.read_text())
    assert data == json.loads(json.dumps(to_dict(result)))
    assert data["clips"][0]["values"]["psnr"] == pytest.approx(decibel(1))
    assert (data["clips"][0]["prompt"], data["clips"][0]["seed"], data["clips"][0]["frames"]) == ("a dog", 1024, 3)
    assert data["mean"]["psnr"].keys() == {"mean", "low", "high", "num_clips"}
    assert [metric["key"] for metric in data["metrics"]] == result.keys
    assert [clip["name"] for clip in data["not_compared"]] == ["alone", "damaged", "short"]
    assert data["notes"] == result.notes


def test_csv_has_a_row_per_clip_with_the_reason_where_there_are_no_values(folders, tmp_path):
    write(compare(*folders), tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a0", "a1", "alone", "b0", "damaged", "short"]
    assert float(rows["b0"]["psnr"]) == pytest.approx(decibel(4)) and rows["b0"]["not_compared"] == ""
    assert rows["short"]["psnr"] == "" and rows["short"]["not_compared"] == REASONS["short"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_nothing_left_to_compare_is_said_and_can_be_written(save, tmp_path):
    reference, samples = save("reference", "x", REFERENCE), save("samples", "x", REFERENCE[:1])
    result = compare(reference, samples)
    assert table(result) == "no clip could be compared"
    write(result, tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["clips"] == []


def test_other_formats_are_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="written as .json or .csv, not as 'results.txt'"):
        write(compare(*folders), tmp_path / "results.txt")
