"""Finished videos on disk: taken up again, cut off, and of another setting."""

from __future__ import annotations

import json
import logging

import pytest

from bench.log import BenchLog, VideoRow
from bench.points import BenchPoint
from bench.setting import BenchClip
from opensora.errors import ConfigError

SETTING = {"weights": "abc", "video": (64, 64, 17)}
CLIP = BenchClip(0, 0, "a red circle")
POINT = BenchPoint("steps", 6, num_steps=6)


def row(clip: BenchClip, psnr: float = 30.0, point: BenchPoint = POINT) -> VideoRow:
    return VideoRow(clip.prompt, clip.seed, point.key, point.digest, {"psnr": psnr})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def test_rows_are_found_again(path):
    log = BenchLog(path, SETTING)
    log.add(row(CLIP))
    again = BenchLog(path, SETTING)
    assert again.get(CLIP, POINT) == log.get(CLIP, POINT) == row(CLIP)
    assert again.get(BenchClip(0, 1, CLIP.prompt), POINT) is None  # another seed
    assert again.get(CLIP, BenchPoint("steps", 6, num_steps=7)) is None  # other options of the same name
    again.add(row(CLIP, 31.0))
    assert BenchLog(path, SETTING).get(CLIP, POINT).values == {"psnr": 31.0}  # the later one counts


def test_an_unfinished_last_line_is_dropped(path):
    BenchLog(path, SETTING).add(row(CLIP))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"prompt": "a red cir')
    log = BenchLog(path, SETTING)
    assert log.get(CLIP, POINT) == row(CLIP)
    other = BenchClip(1, 0, "a blue star")
    log.add(row(other))
    assert BenchLog(path, SETTING).get(other, POINT) == row(other)
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_last_line_that_only_lacks_its_end_counts(path):
    BenchLog(path, SETTING).add(row(CLIP))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    other = BenchClip(1, 0, "a blue star")
    log = BenchLog(path, SETTING)
    log.add(row(other))
    again = BenchLog(path, SETTING)
    assert (again.get(CLIP, POINT), again.get(other, POINT)) == (row(CLIP), row(other))


def test_a_log_whose_first_line_is_unfinished_begins_anew(path):
    path.write_bytes(b'{"setting": {"wei')
    log = BenchLog(path, SETTING)
    log.add(row(CLIP))
    assert BenchLog(path, SETTING).get(CLIP, POINT) == row(CLIP)


def test_damage_elsewhere_is_an_error(path):
    BenchLog(path, SETTING).add(row(CLIP))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "nonsense", lines[1]]) + "\n")
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        BenchLog(path, SETTING)


def test_a_log_of_another_setting_is_set_aside(path, caplog):
    BenchLog(path, SETTING).add(row(CLIP))
    before = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        log = BenchLog(path, {**SETTING, "weights": "def"})
    assert "was measured with other weights: it is kept as log-" in caplog.text
    assert log.get(CLIP, POINT) is None
    [aside] = path.parent.glob("log-*.jsonl")
    assert aside.read_bytes() == before
    assert BenchLog(path, SETTING).get(CLIP, POINT) == row(CLIP)
    assert path.read_bytes() == before and not aside.exists()
    assert len([*path.parent.glob("log-*.jsonl")]) == 1  # the other one's
