"""The caption check: right on real clips, not fooled by other captions, exact where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mini.check.blobs import connected, follow
from mini.check.check import check_clip, compare
from mini.check.describe import Seen, SeenFigure, describe_clip
from mini.check.shape_match import angles
from mini.check.validate import soften, wrong_scenes
from mini.world.captions import Background, Figure, Scene
from mini.world.clips import make_clip
from mini.world.paths import FRAMES, SIZE, Shot, random_shot
from mini.world.render import render

GRAY = Background("gray")
STRIPES = Background("teal", "striped")
TRIANGLE = Figure("red", "triangle", "fast", "right")
AT_REST = SeenFigure("red", "star", dx=0, dy=0, growth=1, rotation=0, height=0, drop=0)


def shoot(scene: Scene, seed: int = 4, frames: int = FRAMES) -> tuple[np.ndarray, Shot]:
    shot = random_shot(scene, np.random.default_rng(seed), frames)
    return render(scene, shot), shot


@pytest.mark.parametrize("soft", [False, True], ids=["crisp", "soft"])
def test_real_held_out_clips_are_right_and_captions_with_one_wrong_word_are_not(soft):
    rng = np.random.default_rng(0)
    for i in range(20):
        clip = make_clip(11, i, held_out=True)
        seen = describe_clip(soften(clip.frames, rng) if soft else clip.frames)
        assert compare(seen, clip.scene).all, clip.caption
        for item, wrong in wrong_scenes(clip.scene, rng).items():
            assert not compare(seen, wrong).all, (clip.caption, item, wrong.caption())


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_longer_clips_and_other_sizes_are_right(size):
    for i in range(4):
        clip = make_clip(12, i, held_out=True, frames=3 * FRAMES, size=size)
        check = check_clip(clip.frames, clip.caption)
        assert check.all, clip.caption
        assert check.keeps is True


@pytest.mark.parametrize(
    ("scene", "wrong", "items"),
    [
        (TRIANGLE, {"color": "green"}, {"color"}),
        (TRIANGLE, {"shape": "square"}, {"shape"}),
        (TRIANGLE, {"direction": "left"}, {"direction"}),
        (TRIANGLE, {"motion": "slowly"}, {"speed"}),
        (TRIANGLE, {"motion": "still", "direction": None}, {"still_or_moving"}),
        (TRIANGLE, {"motion": "growing", "direction": None}, {"still_or_moving", "grow"}),
        (TRIANGLE, {"motion": "bouncing", "direction": None}, {"still_or_moving", "bounce"}),
        (Figure("red", "star", "spinning"), {"motion": "shrinking"}, {"shrink"}),
        (Figure("red", "star", "bouncing"), {"motion": "spinning"}, {"spin"}),
        (Figure("red", "star", "growing"), {"motion": "still"}, {"still_or_moving"}),
        (
            Figure("red", "star"),
            {"motion": "slowly", "direction": "up"},
            {"still_or_moving", "speed", "direction"},
        ),
    ],
)
def test_a_wrong_figure_fails_in_the_items_that_are_wrong(scene, wrong, items):
    scene = Scene((scene,), GRAY)
    frames, _ = shoot(scene)
    assert check_clip(frames, scene.caption()).all
    check = check_clip(frames, Scene((replace(scene.main, **wrong),), GRAY).caption())
    assert {name for name, right in check.items().items() if not right} == items


@pytest.mark.parametrize(
    ("background", "pan", "wrong", "items"),
    [
        (STRIPES, None, {"background": replace(STRIPES, color="navy")}, {"background"}),
        (STRIPES, None, {"background": replace(STRIPES, pattern="checkered")}, {"pattern"}),
        (STRIPES, None, {"background": replace(STRIPES, pattern="plain")}, {"pattern"}),
        (STRIPES, None, {"background": replace(STRIPES, drifting=True)}, {"pattern"}),
        (replace(STRIPES, drifting=True), None, {"background": STRIPES}, {"pattern"}),
        (Background("navy", "gradient"), None, {"background": Background("navy")}, {"pattern"}),
        (STRIPES, "left", {"pan": "right"}, {"pan"}),
        (STRIPES, "left", {"pan": None}, {"pattern", "still_or_moving"}),
        (replace(STRIPES, drifting=True), None, {"background": STRIPES, "pan": "right"}, {"still_or_moving", "pan"}),
    ],
)
def test_a_wrong_background_or_camera_fails_in_the_items_that_are_wrong(background, pan, wrong, items):
    scene = Scene((Figure("white", "circle"),), background, pan)
    seen = describe_clip(shoot(scene)[0])
    assert compare(seen, scene).all
    check = compare(seen, replace(scene, **wrong))
    assert {name for name, right in check.items().items() if not right} == items


def test_the_caption_decides_which_items_apply():
    frames, _ = shoot(Scene((TRIANGLE,), GRAY))
    basic = {"found", "color", "shape", "still_or_moving"}
    assert set(check_clip(frames, "a red triangle moving fast right").items()) == basic | {"speed", "direction"}
    assert set(check_clip(frames, "a still red triangle").items()) == basic
    assert set(check_clip(frames, "a growing red star on a gray background").items()) == basic | {
        "grow",
        "background",
        "pattern",
    }


def test_of_a_pair_the_right_one_has_to_move_and_the_other_to_stay():
    still, mover = Figure("green", "star"), Figure("blue", "square", "slowly", "down")
    scene = Scene((still, mover), GRAY)
    seen = describe_clip(shoot(scene)[0])
    assert compare(seen, scene).all
    swapped = (replace(still, color="blue", shape="square"), replace(mover, color="green", shape="star"))
    assert not compare(seen, replace(scene, figures=swapped)).still_or_moving
    alone = compare(seen, replace(scene, figures=(mover,)))
    assert not any((alone.found, alone.color, alone.shape, alone.speed, alone.direction))
    assert alone.background
    assert alone.pattern


def test_measurements_agree_with_the_shot():
    for seed in range(4):
        scene = Scene((Figure("yellow", "star", "spinning"),), replace(STRIPES, drifting=True))
        frames, shot = shoot(scene, seed)
        seen = describe_clip(frames)
        (figure,), (path,) = seen.figures, shot.paths
        assert seen.scroll == pytest.approx(shot.scroll[-1], abs=0.5)
        assert figure.rotation == pytest.approx(path.angle[-1] - path.angle[0], abs=0.1)
        assert np.hypot(figure.dx, figure.dy) < 0.3
        scene = Scene((Figure("purple", "triangle", "growing"),), GRAY)
        frames, shot = shoot(scene, seed)
        first, last = shot.paths[0].radius[[0, -1]]
        assert describe_clip(frames).figures[0].growth == pytest.approx((last / first) ** 2, rel=0.2)
        scene = Scene((replace(TRIANGLE, direction="up"),), GRAY)
        frames, shot = shoot(scene, seed)
        assert describe_clip(frames).figures[0].dy == pytest.approx(shot.paths[0].y[-1] - shot.paths[0].y[0], abs=0.5)


def test_a_later_chunk_with_another_figure_does_not_keep_the_scene():
    scene = Scene((Figure("orange", "circle"),), GRAY)
    frames, _ = shoot(scene, frames=2 * FRAMES)
    assert check_clip(frames, scene.caption()).keeps is True
    assert check_clip(frames[:-1], scene.caption()).keeps is None  # no second whole chunk
    for change in ({"figures": (Figure("orange", "square"),)}, {"background": STRIPES}):
        other, _ = shoot(replace(scene, **change))
        check = check_clip(np.concatenate([frames[:FRAMES], other]), scene.caption())
        assert {name for name, right in check.items().items() if not right} == {"keeps"}


def test_a_figure_that_changes_its_color_has_none():
    scenes = [Scene((Figure(color, "square"),), GRAY) for color in ("red", "blue")]
    first, second = (shoot(scene)[0] for scene in scenes)
    check = check_clip(np.concatenate([first[:9], second[9:]]), scenes[0].caption())
    assert {name for name, right in check.items().items() if not right} == {"color"}


def test_an_empty_clip_shows_nothing():
    check = check_clip(np.full((FRAMES, *SIZE, 3), 128, np.uint8), "a spinning red star on a gray background")
    assert {name for name, right in check.items().items() if right} == {"background", "pattern"}


def test_noise_shows_nothing_that_was_asked_for():
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, *SIZE, 3)).astype(np.uint8)
    seen = describe_clip(noise)
    assert seen.background is None
    assert [(figure.color, figure.shape) for figure in seen.figures] == [(None, None)]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((16, 64, 64, 3), np.uint8), "needs 17 frames"),
        (np.zeros((17, 40, 64, 3), np.uint8), "of 48 x 48 pixels"),
        (np.zeros((17, 64, 64, 3), np.float32), "uint8"),
        (np.zeros((17, 3, 64, 64), np.uint8), "F, H, W, 3"),
    ],
)
def test_another_kind_of_array_is_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        check_clip(frames, "a still red star")


def test_a_caption_outside_the_grammar_is_refused():
    with pytest.raises(ValueError, match="names no motion"):
        check_clip(np.zeros((FRAMES, *SIZE, 3), np.uint8), "a red star")


@pytest.mark.parametrize(
    ("dx", "dy", "direction", "right"),
    [
        (10, 2, "right", True),
        (-10, 2, "left", True),
        (1, -10, "up", True),
        (1, 10, "down", True),
        (10, 9, "right", False),  # a diagonal has no direction
        (3, 0, "right", False),  # nor has what hardly moves
    ],
)
def test_directions_by_hand(dx, dy, direction, right):
    seen = Seen("gray", "plain", 0.0, (replace(AT_REST, dx=dx, dy=dy),))
    check = compare(seen, Scene((Figure("red", "star", "slowly", direction),), GRAY))
    assert check.direction is right


@pytest.mark.parametrize(
    ("dy", "height", "drop", "motion"),
    [
        (0, 16, 16, "bouncing"),
        (9.5, 9.5, 9.5, "slowly"),  # falls
        (-9.5, 9.5, 0, "slowly"),  # rises
        (2, 5, 5, "still"),
    ],
)
def test_only_what_comes_back_bounces(dy, height, drop, motion):
    figure = replace(AT_REST, dy=dy, height=height, drop=drop)
    seen = Seen("gray", "plain", 0.0, (figure,))
    directions = {"slowly": "down" if dy > 0 else "up"}
    for asked in ("bouncing", "slowly", "still"):
        check = compare(seen, Scene((Figure("red", "star", asked, directions.get(asked)),), GRAY))
        assert check.all == (asked == motion), asked


def test_connected_parts_have_one_number_each():
    masks = np.zeros((2, 7, 8), bool)
    masks[0, 1:6, 1] = masks[0, 5, 1:7] = masks[0, 1:6, 6] = True  # a cup
    masks[0, 1:3, 3:5] = True  # and something in it
    masks[1, 0, 0] = True
    labels = connected(masks)
    assert ((labels > 0) == masks).all()
    assert len(np.unique(labels[0])) == 3
    assert len(np.unique(labels[0][[1, 5, 1], [1, 4, 6]])) == 1
    assert labels[1, 0, 0] not in labels[0]


def test_figures_are_followed_by_place_not_by_size():
    def part(x: int, side: int) -> np.ndarray:
        mask = np.zeros((20, 40), bool)
        mask[5 : 5 + side, x : x + side] = True
        return mask

    frames = [np.stack([part(4, 9), part(24, 7)]), np.stack([part(24, 9), part(4, 7)])]
    left, right = follow(frames)
    assert left[1][:, :, 20:].sum() == 0
    assert right[1][:, :, :20].sum() == 0
    assert follow([frames[0], frames[0][:1], frames[0][:0]]) == []  # the number is not steady


def test_angles_go_on_past_the_symmetry_of_the_shape():
    degrees = np.arange(0, 170, 17.0)
    templates = np.arange(0, 72, 6.0)
    gap = (degrees[:, None] - templates + 36) % 72 - 36
    assert np.rad2deg(angles(1 - (gap / 36) ** 2, 72)) == pytest.approx(degrees, abs=0.1)
