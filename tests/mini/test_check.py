"""The caption check: right on real clips, not fooled by other captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opensora.mini.captions import Scene
from opensora.mini.check import check_clip, densest_blob, main_direction
from opensora.mini.clips import make_clip
from opensora.mini.shapes import random_path, render


def test_every_part_is_right_on_real_held_out_clips():
    for i in range(40):
        clip = make_clip(11, i, held_out=True)
        assert check_clip(clip.frames, clip.caption).all, clip.caption


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"color": "green"}, "color"),
        ({"background": "teal"}, "background"),
        ({"shape": "square"}, "shape"),
        ({"direction": "left"}, "motion"),
        ({"motion": "slowly"}, "motion"),
        ({"motion": "still", "direction": None}, "motion"),
        ({"motion": "growing", "direction": None}, "motion"),
        ({"motion": "bouncing", "direction": None}, "motion"),
    ],
)
def test_a_wrong_caption_fails_in_the_part_that_is_wrong(change, part):
    scene = Scene("red", "triangle", "fast", "right", "gray")
    frames = render(scene, random_path(scene, np.random.default_rng(4)))
    assert check_clip(frames, scene.caption()).all
    check = check_clip(frames, replace(scene, **change).caption())
    assert not getattr(check, part)
    assert not check.all


def test_an_empty_clip_shows_nothing():
    assert not check_clip(np.full((17, 64, 64, 3), 128, np.uint8), "a still red star on a gray background").found


def test_a_clip_of_another_size_is_refused():
    with pytest.raises(ValueError, match="made for clips of"):
        check_clip(np.zeros((16, 64, 64, 3), np.uint8), "a still red star")


def test_the_densest_blob_wins_over_a_speck():
    mask = np.zeros((64, 64), bool)
    mask[2, 2] = True
    mask[30:40, 30:40] = True
    assert densest_blob(mask).sum() == 100


def test_a_diagonal_has_no_main_direction():
    assert main_direction(10, 9) is None
    assert main_direction(10, 2) == "right"
    assert main_direction(1, -10) == "up"
