"""The caption check's table and contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mini.check.check import CaptionCheck
from mini.check.report import CheckedClip, contact_sheet, table, wilson

RIGHT = CaptionCheck(found=True, color=True, shape=True, still_or_moving=True, spin=True)
WRONG = CaptionCheck(found=True, color=True, shape=False, still_or_moving=True, speed=True, direction=False)


def clip(check: CaptionCheck, caption: str, frames: int = 17) -> CheckedClip:
    return CheckedClip(np.full((frames, 48, 64, 3), 200, np.uint8), caption, check)


CLIPS = [
    clip(RIGHT, "a spinning red star on a black background"),
    clip(WRONG, "a blue circle moving fast up on a pink background", 34),
]


def test_intervals_of_known_shares():
    # Wilson's score interval at 95 %: 10 of 10 is 72 to 100 %, 5 of 10 is 24 to 76 %.
    assert wilson(1.0, 10) == pytest.approx((0.722, 1.0), abs=0.001)
    assert wilson(0.5, 10) == pytest.approx((0.237, 0.763), abs=0.001)


def test_seeds_of_a_caption_are_no_further_captions():
    once, twice = (
        {line.split()[0]: line.split()[-1] for line in table(c).splitlines()[1:7]} for c in (CLIPS, 2 * CLIPS)
    )
    assert once == twice


def test_the_table_counts_only_items_that_apply():
    lines = {line.split()[0]: line.split()[1:3] for line in table(CLIPS).splitlines() if "/" in line}
    assert lines["found"] == ["2/2", "100.0%"]
    assert lines["shape"] == ["1/2", "50.0%"]
    assert lines["spin"] == ["1/1", "100.0%"]
    assert lines["direction"] == ["0/1", "0.0%"]
    assert lines["all"] == ["1/2", "50.0%"]
    assert lines["spinning"] == ["1/1", "100.0%"]
    assert lines["fast"] == ["0/1", "0.0%"]
    assert "pan" not in lines


def test_wrong_items_are_named():
    assert CLIPS[0].wrong == []
    assert CLIPS[1].wrong == ["shape", "direction"]


def test_the_sheet_has_a_strip_per_clip_and_red_text_for_wrong_ones(tmp_path):
    contact_sheet(CLIPS, tmp_path / "sheet.png", per_row=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape[1] == 2 * (5 * 64 + 6)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 80) & (sheet[..., 2] < 80)
    middle = sheet.shape[1] // 2
    assert not red[:, :middle].any()
    assert red[:, middle:].any()
