"""Contact sheets of a run: what is on them, several of them, and samples that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opensora.cli import drafts
from opensora.cli.drafts import MAX_STRIPS, write_sheets
from opensora.cli.plan import Result, Sample
from opensora.datasets.video_io import write_video


def sample(folder: Path, index: int, seed: int = 1, num_frames: int = 4, prompt: str = "a cat") -> Sample:
    """A gray video, or image, of one shade per seed."""
    frames = np.full((num_frames, 36, 48, 3), 40 * seed % 200, np.uint8)
    video = write_video(folder / f"{index}_{seed}", frames, 8)
    return Sample(index, prompt, seed, None, result=Result(video, 1.0, 30, 30))


@pytest.fixture
def labels(monkeypatch) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(heading, number of columns, texts with their notes) of every grid that is drawn."""
    drawn = []
    draw = drafts.grid

    def record(strips, per_row, text_lines, font_size, heading):
        drawn.append((heading, per_row, [(strip.text, strip.note) for strip in strips]))
        return draw(strips, per_row, text_lines, font_size, heading)

    monkeypatch.setattr(drafts, "grid", record)
    return drawn


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_sheet_has_a_strip_per_sample_under_its_prompt(tmp_path, labels):
    results = [sample(tmp_path, 0, 5), sample(tmp_path, 0, 7), sample(tmp_path, 1, 6, prompt="a dog")]
    path = tmp_path / "contact_sheet.png"
    assert write_sheets(path, results) == [path]
    note = "30 of 30 steps"
    assert labels == [
        ("0: a cat", 1, [("seed 5", note), ("seed 7", note)]),
        ("1: a dog", 1, [("seed 6", note)]),
    ]
    width, height = size(path)
    assert width > 4 * 192 and height > 3 * 144  # four frames side by side, three strips


def test_frames_are_spread_over_the_video(tmp_path):
    frames = np.stack([np.full((144, 192, 3), 10 * t, np.uint8) for t in range(21)])
    video = write_video(tmp_path / "a", frames, 8)
    (path,) = write_sheets(tmp_path / "sheet.png", [Sample(0, "a", 1, None, result=Result(video, 1.0, 30, 30))])
    with Image.open(path) as picture:
        middles = np.asarray(picture)[-60, 112::195, 0][:6]  # of each of six frames
    assert middles == pytest.approx([0, 40, 80, 120, 160, 200], abs=4)


def test_images_of_a_prompt_share_a_row(tmp_path, labels):
    results = [sample(tmp_path, index, seed, num_frames=1) for index in range(2) for seed in (1, 2)]
    write_sheets(tmp_path / "contact_sheet.png", results)
    assert [(heading, per_row) for heading, per_row, _ in labels] == [("0: a cat", 2), ("1: a cat", 2)]


def test_many_samples_go_on_in_other_sheets_and_those_of_an_older_run_are_removed(tmp_path, labels):
    one = sample(tmp_path, 0)
    results = [Sample(i, "x", 1, None, result=one.result) for i in range(MAX_STRIPS + 2)]
    (tmp_path / "sheet.page13.png").write_bytes(b"")
    sheets = write_sheets(tmp_path / "sheet.png", results)
    assert sheets == [tmp_path / "sheet.png", tmp_path / "sheet.page2.png"]
    assert sorted(tmp_path.glob("sheet*")) == sorted(sheets)
    assert labels[MAX_STRIPS][0] == f"{MAX_STRIPS}: x"


def test_a_video_that_cannot_be_read_has_a_gray_box(tmp_path, labels):
    missing, broken = (sample(tmp_path, index) for index in (0, 1))
    missing.result.video.unlink()
    broken.result.video.write_bytes(b"text")
    (path,) = write_sheets(tmp_path / "sheet.png", [missing, broken])
    assert [texts[0][0] for _, _, texts in labels] == ["seed 1: cannot read 0_1.mp4", "seed 1: cannot read 1_1.mp4"]
    assert size(path)[0] > 192
