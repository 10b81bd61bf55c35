"""Where things are: in frame for the longest clip, as fast as the captions say, the same for every length."""

from __future__ import annotations

import numpy as np
import pytest

from mini.world.captions import Background, Figure, Scene, random_scene
from mini.world.paths import FRAMES, GENTLE, WILD, Shot, fold, random_shot
from mini.world.shapes import reach

LONG = 3 * FRAMES
SIZES = [(64, 64), (64, 96), (96, 64)]
STRIPES = Background("gray", "striped")


def one(motion: str, direction: str | None = None, background: Background = STRIPES, pan: str | None = None) -> Scene:
    return Scene((Figure("red", "square", motion, direction),), background, pan)


def shots(scene: Scene, frames: int = FRAMES, count: int = 20) -> list[Shot]:
    rng = np.random.default_rng(1)
    return [random_shot(scene, rng, frames) for _ in range(count)]


def test_fold_by_hand():
    position = np.array([2.0, 5.0, 9.0, 10.0, 11.0, 18.0, 19.0, -1.0, 1.0])
    expected = [2.0, 5.0, 9.0, 10.0, 9.0, 2.0, 3.0, 5.0, 3.0]
    assert fold(position, low=2, high=10) == pytest.approx(expected)


def test_fold_without_room_stays_where_it_is():
    assert fold(np.array([3.0, 4.0, 9.0]), low=4, high=4) == pytest.approx([4, 4, 4], abs=1e-5)


@pytest.mark.parametrize("bounce", [GENTLE, WILD], ids=["gentle", "wild"])
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_figure_is_in_frame_in_every_frame_of_the_longest_clip(size, bounce):
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = random_scene(rng)
        for figure, path in zip(scene.figures, random_shot(scene, rng, LONG, size, bounce).paths, strict=True):
            extent = reach(figure.shape) * path.radius
            for center, side in ((path.x, size[1]), (path.y, size[0])):
                assert (center - extent >= 0).all(), scene.caption()
                assert (center + extent <= side).all(), scene.caption()


def test_a_longer_shot_starts_with_the_shorter_one():
    for seed in range(50):
        scene = random_scene(np.random.default_rng(seed))
        short = random_shot(scene, np.random.default_rng(seed), FRAMES)
        start = random_shot(scene, np.random.default_rng(seed), LONG).part(0, FRAMES)
        assert short.offset == start.offset
        assert np.array_equal(short.scroll, start.scroll)
        for a, b in zip(short.paths, start.paths, strict=True):
            assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("x", "y", "radius", "angle"))


@pytest.mark.parametrize(("motion", "low", "high"), [("slowly", 8.8, 12.8), ("fast", 30.4, 35.2)])
@pytest.mark.parametrize(("direction", "axis", "sign"), [("left", "x", -1), ("right", "x", 1), ("down", "y", 1)])
def test_displacement_matches_speed_and_direction(motion, low, high, direction, axis, sign):
    for shot in shots(one(motion, direction)):
        along = getattr(shot.paths[0], axis)
        across = shot.paths[0].y if axis == "x" else shot.paths[0].x
        assert low <= sign * (along[-1] - along[0]) <= high
        assert np.ptp(np.diff(along)) < 1e-9  # nothing turns back in the first clip
        assert np.ptp(across) == 0


def test_a_fast_figure_turns_back_in_a_longer_clip():
    for shot in shots(one("fast", "right"), LONG):
        assert (np.diff(shot.paths[0].x) < -1.8).any()


@pytest.mark.parametrize("motion", ["still", "spinning", "growing", "shrinking"])
def test_what_stays_in_place_does(motion):
    for shot in shots(one(motion), LONG):
        assert np.ptp(shot.paths[0].x) == np.ptp(shot.paths[0].y) == 0
        assert not shot.scroll.any()


def test_spinning_is_clockwise_and_too_slow_to_look_backwards():
    for shot in shots(one("spinning")):
        assert 1.6 <= shot.paths[0].angle[-1] - shot.paths[0].angle[0] <= 2.1


def test_growing_and_shrinking_mirror_each_other():
    for growing, shrinking in zip(shots(one("growing")), shots(one("shrinking")), strict=True):
        assert np.allclose(growing.paths[0].radius, shrinking.paths[0].radius[::-1])
        assert growing.paths[0].radius[-1] > 2 * growing.paths[0].radius[0]


@pytest.mark.parametrize("bounce", [GENTLE, WILD], ids=["gentle", "wild"])
def test_a_bouncing_figure_meets_the_floor_and_comes_up_again(bounce):
    rng = np.random.default_rng(1)
    for _ in range(20):
        y = random_shot(one("bouncing"), rng, LONG, bounce=bounce).paths[0].y
        assert np.allclose(y[:: bounce.period], y.max())
        assert np.allclose(y[bounce.period // 2 :: bounce.period], y.min())
        assert bounce.height[0] <= np.ptp(y) <= bounce.height[1]
        assert y[0] == pytest.approx(y[FRAMES - 1])  # a whole number of bounces in the first clip


@pytest.mark.parametrize(("pan", "sign"), [("left", 1), ("right", -1)])
def test_a_pan_moves_the_figure_with_the_background_to_the_other_side(pan, sign):
    for shot in shots(one("still", pan=pan), LONG):
        x = shot.paths[0].x
        assert np.allclose(shot.scroll, x - x[0])
        assert 16 <= sign * shot.scroll[FRAMES - 1] <= 20.8
        assert np.ptp(np.diff(shot.scroll[:FRAMES])) < 1e-9


def test_a_drifting_background_goes_left_and_leaves_the_figure_alone():
    for shot in shots(one("still", background=Background("gray", "striped", drifting=True))):
        assert 8 <= -shot.scroll[-1] <= 14.4
        assert np.ptp(shot.paths[0].x) == 0


@pytest.mark.parametrize("size", SIZES)
def test_two_figures_never_meet(size):
    rng = np.random.default_rng(2)
    pairs = [scene for scene in (random_scene(rng) for _ in range(600)) if scene.kind == "pair"]
    for scene in pairs:
        still, mover = random_shot(scene, rng, LONG, size).paths
        room = sum(
            reach(figure.shape) * path.radius[0] for figure, path in zip(scene.figures, (still, mover), strict=True)
        )
        gap = np.maximum(np.abs(still.x - mover.x), np.abs(still.y - mover.y))
        assert (gap > room).all(), scene.caption()
        assert np.ptp(still.x) == np.ptp(still.y) == 0
