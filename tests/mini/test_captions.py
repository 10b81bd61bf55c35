"""The mini model's grammar and its split into training and held-out scenes."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from mini.world.captions import (
    KIND_MIX,
    ROUND,
    SIZE_SHARE,
    SOLID,
    TEXTURES,
    Background,
    Figure,
    Scene,
    caption_pattern,
    draw_scene,
    held_out_captions,
    parse_caption,
    random_caption,
    random_scene,
    vocabulary,
)
from mini.world.clips import MOST_FIGURES, make_caption, make_chunk, make_clip

MOVING = Figure("orange", "star", "fast", "right")
STILL = Figure("red", "circle")
SLOW = Figure("blue", "square", "slowly", "up")


def random_scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [random_scene(rng) for _ in range(count)]


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
            Scene((STILL, SLOW), Background("black")),
            "a still red circle and a blue square moving slowly up on a black background",
        ),
        (
            Scene((STILL, Figure("cyan", "heart"), MOVING), Background("sky", "dotted")),
            "a still red circle and a still cyan heart and an orange star moving fast to the right "
            "on a sky dotted background",
        ),
        (
            Scene((STILL, MOVING), Background("gray"), order="in front"),
            "a still red circle and an orange star moving fast to the right in front of it on a gray background",
        ),
        (
            Scene((replace(STILL, motion="spinning", size="small", place="top left"),), Background("gray")),
            "a spinning small red circle at the top left on a gray background",
        ),
        (
            Scene((replace(MOVING, size="large"),), Background("gray")),
            "a large orange star moving fast to the right on a gray background",
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


def test_parsing_a_caption_gives_its_scene_back_and_every_caption_fits_the_pattern():
    rng, pattern = np.random.default_rng(0), re.compile(caption_pattern())
    for scene in random_scenes(500, seed=0):
        assert parse_caption(scene.caption()) == scene
        assert parse_caption(scene.caption(to_the=False)) == scene
        caption = random_caption(scene, rng)
        assert parse_caption(caption) in (scene, replace(scene, background=Background("")))
        assert pattern.fullmatch(caption), caption


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
        ("a still red star at the moon", "place"),
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
    assert open_kinds == {"plain", "pair", "trio", "crossing"}


def test_about_five_percent_of_scenes_are_held_out_and_none_is_drawn_for_training():
    rng = np.random.default_rng(3)
    share = np.mean([random_scene(rng).held_out for _ in range(2000)])
    assert 0.035 < share < 0.065
    assert not any(draw_scene(rng, held_out=False).held_out for _ in range(300))
    assert all(draw_scene(rng, held_out=True).held_out for _ in range(20))


def test_held_out_captions_are_different_and_held_out():
    captions = held_out_captions(30, seed=4)
    assert len(set(captions)) == 30
    assert captions[:10] == held_out_captions(10, seed=4)
    assert all(parse_caption(caption).held_out for caption in captions)


def test_what_nobody_could_see_is_never_drawn():
    for scene in random_scenes(2000, seed=5):
        assert not any(figure.shape in ROUND and figure.motion == "spinning" for figure in scene.figures)
        assert scene.background != Background("black", "gradient")
        assert scene.background.pattern in TEXTURES or not (scene.pan or scene.background.drifting)
        assert not scene.order or all(figure.shape in SOLID for figure in scene.figures)


def test_only_a_figure_on_its_own_has_a_size_and_only_one_that_stays_a_place():
    sized, could_be = 0, 0
    for scene in random_scenes(1500, seed=8):
        plain = scene.kind in ("plain", "textured")
        for figure in scene.figures:
            assert not figure.place or (plain and figure.motion in ("still", "spinning"))
            can = plain and figure.motion not in ("growing", "shrinking")
            assert can or not figure.size
            sized, could_be = sized + bool(figure.size), could_be + can
    assert sized / could_be == pytest.approx(SIZE_SHARE, abs=0.05)


def test_kinds_of_scenes_have_their_shares():
    rng = np.random.default_rng(6)
    kinds = [random_scene(rng).kind for _ in range(2000)]
    for kind, share in KIND_MIX.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.03)


def test_a_group_is_of_still_figures_and_a_moving_one_in_different_colors():
    numbers = {"pair": 2, "trio": 3, "crossing": 2}
    for scene in random_scenes(1000, seed=7):
        assert len(scene.figures) == numbers.get(scene.kind, 1)
        assert (scene.order is not None) == (scene.kind == "crossing")
        if len(scene.figures) > 1:
            *still, mover = scene.figures
            assert all((figure.motion, figure.direction) == ("still", None) for figure in still)
            assert mover.direction is not None
            assert scene.main is mover
            assert len({figure.color for figure in scene.figures}) == len(scene.figures)


def test_the_same_seed_gives_the_same_clip_and_caption():
    first, again, other = make_clip(5, 3), make_clip(5, 3), make_clip(6, 3)
    assert torch.equal(first.frames, again.frames)
    assert first.caption == again.caption == make_caption(5, 3)
    assert not torch.equal(first.frames, other.frames)


def test_a_training_chunk_comes_with_the_ways_of_its_figures():
    for index in range(6):
        frames, centers = make_chunk(5, index)
        assert frames.shape == (17, 128, 128, 3)
        assert centers.shape == (17, MOST_FIGURES, 2)
        counts = (~np.isnan(centers)).sum((1, 2))
        assert counts.min() == counts.max() >= 2 and not np.isnan(centers[:, 0]).any()
        again, _ = make_chunk(5, index)
        assert torch.equal(frames, again)
