"""The mini model's grammar and its split into training and held-out scenes."""

from __future__ import annotations

import numpy as np
import pytest

from opensora.mini.captions import Scene, draw_scene, parse_caption, random_caption, random_scene, vocabulary
from opensora.mini.clips import make_caption, make_clip


def test_captions_read_as_english():
    moving = Scene("orange", "star", "fast", "right", "navy", gradient=True)
    assert moving.caption() == "an orange star moving fast to the right on a navy gradient background"
    assert moving.caption(to_the=False, with_background=False) == "an orange star moving fast right"
    still = Scene("red", "circle", "still", None, "black")
    assert still.caption() == "a still red circle on a black background"


def test_parsing_a_caption_gives_its_scene_back():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = random_scene(rng)
        assert parse_caption(scene.caption()) == scene
        assert parse_caption(scene.caption(with_background=False)).background == ""


@pytest.mark.parametrize(
    ("caption", "culprit"),
    [
        ("a still circle", "color"),
        ("a still red dog", "shape"),
        ("a red circle", "motion"),
        ("a red star moving fast", "direction"),
    ],
)
def test_a_caption_outside_the_grammar_says_what_is_missing(caption, culprit):
    with pytest.raises(ValueError, match=f"names no {culprit}"):
        parse_caption(caption)


def test_every_word_of_a_caption_is_in_the_vocabulary():
    rng = np.random.default_rng(1)
    words = set(vocabulary())
    for _ in range(500):
        assert set(random_caption(random_scene(rng), rng).split()) <= words


def test_about_five_percent_of_scenes_are_held_out_and_none_is_drawn_for_training():
    rng = np.random.default_rng(2)
    share = np.mean([random_scene(rng).held_out for _ in range(4000)])
    assert 0.035 < share < 0.065
    assert not any(draw_scene(rng, held_out=False).held_out for _ in range(500))
    assert all(draw_scene(rng, held_out=True).held_out for _ in range(20))


def test_circles_never_spin():
    rng = np.random.default_rng(3)
    assert not any(s.shape == "circle" and s.motion == "spinning" for s in (random_scene(rng) for _ in range(2000)))


def test_the_same_seed_gives_the_same_clip_and_caption():
    first, again, other = make_clip(5, 3), make_clip(5, 3), make_clip(6, 3)
    assert np.array_equal(first.frames, again.frames)
    assert first.caption == again.caption == make_caption(5, 3)
    assert not np.array_equal(first.frames, other.frames)
