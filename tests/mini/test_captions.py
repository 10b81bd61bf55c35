"""The mini model's grammar and its split into training and held-out scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mini.world.captions import (
    KIND_MIX,
    Background,
    Figure,
    Scene,
    draw_scene,
    held_out_captions,
    parse_caption,
    random_caption,
    random_scene,
    vocabulary,
)
from mini.world.clips import make_caption, make_clip

MOVING = Figure("orange", "star", "fast", "right")
STILL = Figure("red", "circle")


@pytest.mark.parametrize(
    ("scene", "caption"),
    [
        (
            Scene((MOVING,), Background("navy", "gradient")),
            "an orange star moving fast to the right on a navy gradient background",
        ),
        (
            Scene((STILL,), Background("teal", "striped", drifting=True)),
            "a still red circle on a drifting teal striped background",
        ),
        (
            Scene((STILL,), Background("pink", "checkered"), pan="left"),
            "a still red circle on a pink checkered background while the camera pans left",
        ),
        (
            Scene((STILL, Figure("blue", "square", "slowly", "up")), Background("black")),
            "a still red circle and a blue square moving slowly up on a black background",
        ),
    ],
)
def test_captions_read_as_english(scene, caption):
    assert scene.caption() == caption
    assert parse_caption(caption) == scene
    assert parse_caption(caption.capitalize() + ".") == scene


def test_a_caption_may_leave_out_words():
    scene = Scene((MOVING,), Background("navy"))
    assert scene.caption(to_the=False, with_background=False) == "an orange star moving fast right"


def test_parsing_a_caption_gives_its_scene_back():
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = random_scene(rng)
        assert parse_caption(scene.caption()) == scene
        assert parse_caption(scene.caption(to_the=False)) == scene
        assert parse_caption(random_caption(scene, rng)) in (scene, replace(scene, background=Background("")))


@pytest.mark.parametrize(
    ("caption", "culprit"),
    [
        ("a still circle", "color"),
        ("a still red dog", "shape"),
        ("a red circle", "motion"),
        ("a red star moving fast", "direction"),
        ("a still red star and a blue circle moving fast", "direction"),
        ("a still red star on a mauve background", "background"),
        ("a still red star on a teal striped background while the camera zooms", "pan"),
    ],
)
def test_a_caption_outside_the_grammar_says_what_is_missing(caption, culprit):
    with pytest.raises(ValueError, match=f"names no {culprit}"):
        parse_caption(caption)


def test_every_word_of_a_caption_is_in_the_vocabulary():
    rng = np.random.default_rng(1)
    words = vocabulary()
    said = {word for _ in range(2000) for word in random_caption(random_scene(rng), rng).split()}
    assert said <= set(words)
    assert len(words) == len(set(words))


def test_only_scenes_in_which_nothing_but_a_figure_moves_leave_the_background_open():
    rng = np.random.default_rng(2)
    scenes = [random_scene(rng) for _ in range(2000)]
    open_kinds = {scene.kind for scene in scenes if " on " not in random_caption(scene, rng)}
    assert open_kinds == {"plain", "pair"}


def test_about_five_percent_of_scenes_are_held_out_and_none_is_drawn_for_training():
    rng = np.random.default_rng(3)
    share = np.mean([random_scene(rng).held_out for _ in range(4000)])
    assert 0.035 < share < 0.065
    assert not any(draw_scene(rng, held_out=False).held_out for _ in range(500))
    assert all(draw_scene(rng, held_out=True).held_out for _ in range(20))


def test_held_out_captions_are_different_and_held_out():
    captions = held_out_captions(30, seed=4)
    assert len(set(captions)) == 30
    assert captions[:10] == held_out_captions(10, seed=4)
    assert all(parse_caption(caption).held_out for caption in captions)


def test_what_nobody_could_see_is_never_drawn():
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng) for _ in range(3000)]
    assert not any(f.shape == "circle" and f.motion == "spinning" for s in scenes for f in s.figures)
    assert not any(s.background == Background("black", "gradient") for s in scenes)
    assert all(s.background.pattern in ("striped", "checkered") for s in scenes if s.pan or s.background.drifting)


def test_kinds_of_scenes_have_their_shares():
    rng = np.random.default_rng(6)
    kinds = [random_scene(rng).kind for _ in range(4000)]
    for kind, share in KIND_MIX.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.03)


def test_a_pair_is_a_still_and_a_moving_figure_of_different_colors():
    rng = np.random.default_rng(7)
    pairs = [scene for scene in (random_scene(rng) for _ in range(1000)) if scene.kind == "pair"]
    for scene in pairs:
        still, mover = scene.figures
        assert (still.motion, still.direction) == ("still", None)
        assert mover.direction is not None
        assert scene.main is mover
        assert still.color != mover.color


def test_the_same_seed_gives_the_same_clip_and_caption():
    first, again, other = make_clip(5, 3), make_clip(5, 3), make_clip(6, 3)
    assert np.array_equal(first.frames, again.frames)
    assert first.caption == again.caption == make_caption(5, 3)
    assert not np.array_equal(first.frames, other.frames)
