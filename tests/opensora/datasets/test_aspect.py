"""Sizes and frame counts by name, against the tables of Open-Sora v1.2 and of the AdaCache fork."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opensora.datasets.aspect import (
    ASPECT_RATIOS,
    DURATIONS,
    NUM_FRAMES_MAP,
    RESOLUTIONS,
    get_image_size,
    get_num_frames,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
ASPECT = json.loads((GOLDEN / "aspect.json").read_text())
UPSTREAM, FORK = ASPECT["os12"], ASPECT["adacache"]
FRAMES = json.loads((GOLDEN / "num_frames.json").read_text())


def test_names_are_the_reference_ones():
    assert sorted(RESOLUTIONS) == sorted(FORK["image_size"])
    assert list(ASPECT_RATIOS) == list(FORK["aspect_ratio_map"])
    assert FRAMES["map"] == NUM_FRAMES_MAP
    assert list(DURATIONS) == list(FRAMES["map"])


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_image_size_is_the_forks_or_is_refused(resolution):
    for ratio in ASPECT_RATIOS:
        expected = FORK["image_size"][resolution][ratio]
        if isinstance(expected, list):
            assert get_image_size(resolution, ratio) == tuple(expected)
        else:
            with pytest.raises(ValueError, match=f"resolution '{resolution}' has no aspect ratio '{ratio}'"):
                get_image_size(resolution, ratio)


def test_every_size_that_upstream_knows_is_the_same_here():
    known = [
        (resolution, ratio, size)
        for resolution, sizes in UPSTREAM["image_size"].items()
        for ratio, size in sizes.items()
        if isinstance(size, list)
    ]
    assert len(known) == 8 * 17 + 4  # the video resolutions, and 12:25 of the four regular square ones
    for resolution, ratio, size in known:
        assert get_image_size(resolution, ratio) == tuple(size)


def test_square_resolution_works_where_upstream_fails():
    assert "error" in UPSTREAM["image_size"]["512"]["1:1"]
    assert get_image_size("512", "1:1") == (512, 512)


def test_resolution_may_be_an_int():
    assert get_image_size(512, "1:1") == (512, 512)


@pytest.mark.parametrize("name, suggestion", [("720", "720p"), ("720P", "720p"), ("4K", "4k"), ("480", "480p")])
def test_unknown_resolution_names_the_nearest(name, suggestion):
    with pytest.raises(ValueError, match=f"unknown resolution '{name}': did you mean .*{suggestion}") as error:
        get_image_size(name, "9:16")
    assert "\n" not in str(error.value)


def test_unknown_resolution_without_a_near_one_lists_all():
    with pytest.raises(ValueError, match="unknown resolution 'huge': use one of 144p, 256, 240p, .*4k"):
        get_image_size("huge", "9:16")


def test_unknown_ratio_names_the_nearest_of_its_resolution():
    with pytest.raises(ValueError, match=r"no aspect ratio '16:10' .*: use 3:2 \(the nearest\), or one of 3:8, "):
        get_image_size("720p", "16:10")
    with pytest.raises(ValueError, match=r"use 1:2 \(the nearest\), or one of 12:25, 1:2, 1:1, 2:1$"):
        get_image_size("512", "9:16")


@pytest.mark.parametrize("ratio", ["wide", "9:0", "9:16:4", "", None, 1.78, ["9:16"]])
def test_malformed_ratio_lists_the_valid_ones(ratio):
    with pytest.raises(ValueError, match="use one of 3:8, 9:21"):
        get_image_size("720p", ratio)


@pytest.mark.parametrize("value, expected", [row for row in FRAMES["calls"] if isinstance(row[1], int) and row[1]])
def test_num_frames_is_the_reference_one(value, expected):
    num_frames = get_num_frames(value)
    assert num_frames == expected
    assert type(num_frames) is int


REFUSED = [row[0] for row in FRAMES["calls"] if isinstance(row[1], dict)]


@pytest.mark.parametrize("value", [*REFUSED, "", "2 s", None, True, 33.5, float("nan"), float("inf"), [51]])
def test_unknown_duration_lists_the_names(value):
    message = "use a number of frames or one of 1x, 2x, 4x, 8x, 16x, 2s, 4s, 8s, 16s, 32s"
    with pytest.raises(ValueError, match=message) as error:
        get_num_frames(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", ["0", 0, -17, "-1"])  # the reference returns these
def test_fewer_than_one_frame_is_refused(value):
    with pytest.raises(ValueError, match=f"at least 1 .* got {value!r}"):
        get_num_frames(value)


def test_import_is_light():
    code = "import sys, opensora.datasets.aspect; print(sorted({'torch', 'numpy', 'av'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
