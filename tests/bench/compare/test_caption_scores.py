from __future__ import annotations

import numpy as np
import pytest

from bench.compare.metrics import caption_scores, is_caption
from mini.world.captions import parse_caption
from mini.world.paths import random_shot
from mini.world.render import render

CAPTION = "a still red square on a navy background"


@pytest.fixture(scope="module")
def rendered() -> np.ndarray:
    scene = parse_caption(CAPTION)
    return render(scene, random_shot(scene, np.random.default_rng(0), 17, (64, 64)))


def test_a_clip_that_shows_its_caption(rendered):
    assert caption_scores(rendered, CAPTION) == {"caption_items": 1.0, "caption_right": 1.0}


def test_a_clip_with_one_wrong_item_of_six(rendered):
    # found, color, shape, still, background and pattern are checked
    scores = caption_scores(rendered, CAPTION.replace("navy", "pink"))
    assert scores == {"caption_items": pytest.approx(5 / 6), "caption_right": 0.0}


def test_only_captions_of_the_little_world_are_checked(rendered):
    assert is_caption(CAPTION) and is_caption("A still red square.")
    assert not is_caption("a still red square on the moon")  # has all that the grammar needs, and more
    assert not is_caption("a red square")  # no motion
    assert caption_scores(rendered, "a dog on a beach") == caption_scores(rendered, None) == {}


def test_clips_too_short_or_too_small_for_the_check_have_no_scores(rendered):
    assert caption_scores(rendered[:16], CAPTION) == caption_scores(rendered[:, :47], CAPTION) == {}
