"""Where things are: on the grid, in frame for the longest clip, as fast as the captions say, whatever its length."""

from __future__ import annotations

import numpy as np
import pytest

from mini.world.captions import DIRECTIONS, PLACES, Background, Figure, Scene, random_scene
from mini.world.paths import CROSSING_RADII, FRAMES, RADIUS, SIZE, Shot, fold, places, random_shot
from mini.world.shapes import reach

LONG = 3 * FRAMES
SIZES = [(128, 128), (128, 192), (192, 128)]
STRIPES = Background("gray", "striped")
GROUPS = ("pair", "trio")


def one(motion: str, direction: str | None = None, pan: str | None = None, background=STRIPES, **words) -> Scene:
    return Scene((Figure("red", "square", motion, direction, **words),), background, pan)


def shots(scene: Scene, frames: int = FRAMES, count: int = 20, size: tuple[int, int] = SIZE) -> list[Shot]:
    rng = np.random.default_rng(1)
    return [random_shot(scene, rng, frames, size) for _ in range(count)]


def scenes(*kinds: str, count: int = 600) -> list[Scene]:
    rng = np.random.default_rng(2)
    drawn = [random_scene(rng) for _ in range(count)]
    return [scene for scene in drawn if not kinds or scene.kind in kinds]


def test_fold_by_hand():
    position = np.array([2.0, 5.0, 9.0, 10.0, 11.0, 18.0, 19.0, -1.0, 1.0])
    expected = [2.0, 5.0, 9.0, 10.0, 9.0, 2.0, 3.0, 5.0, 3.0]
    assert fold(position, low=2, high=10) == pytest.approx(expected)


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_figure_is_in_frame_in_every_frame_of_the_longest_clip(size):
    rng = np.random.default_rng(0)
    for scene in scenes():
        for figure, path in zip(scene.figures, random_shot(scene, rng, LONG, size).paths, strict=True):
            extent = reach(figure.shape) * path.radius
            for center, side in ((path.x, size[1]), (path.y, size[0])):
                assert (center - extent >= 0).all(), scene.caption()
                assert (center + extent <= side).all(), scene.caption()


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_a_longer_shot_starts_with_the_shorter_one(frames):
    for seed, scene in enumerate(scenes(count=60)):
        short = random_shot(scene, np.random.default_rng(seed), frames)
        start = random_shot(scene, np.random.default_rng(seed), LONG).part(0, frames)
        assert np.array_equal(short.scroll, start.scroll)
        for a, b in zip(short.paths, start.paths, strict=True):
            assert np.array_equal(a.table(), b.table())


def test_first_frames_are_on_the_grid():
    rng = np.random.default_rng(0)
    for scene in scenes(*GROUPS, "plain", "pan"):
        for path in random_shot(scene, rng).paths:
            assert {path.x[0], path.y[0]} <= {32, 64, 96}, scene.caption()


@pytest.mark.parametrize(("motion", "way"), [("slowly", 32), ("fast", 64)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_displacement_matches_speed_and_direction(motion, way, direction):
    for shot in shots(one(motion, direction), count=5):
        x, y = shot.paths[0].x, shot.paths[0].y
        assert (x[-1] - x[0], y[-1] - y[0]) == (way * DIRECTIONS[direction][0], way * DIRECTIONS[direction][1])
        assert np.ptp(np.diff(x)) == np.ptp(np.diff(y)) == 0  # nothing turns back in the first clip


def test_a_fast_figure_turns_back_in_a_longer_clip():
    for shot in shots(one("fast", "right"), LONG, count=3):
        assert set(np.diff(shot.paths[0].x)) == {4, -4}


@pytest.mark.parametrize("motion", ["still", "spinning", "growing", "shrinking"])
def test_what_stays_in_place_does(motion):
    for shot in shots(one(motion), LONG, count=5):
        assert np.ptp(shot.paths[0].x) == np.ptp(shot.paths[0].y) == 0
        assert not shot.scroll.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_a_named_place_is_where_the_figure_is_and_the_other_side_is_left_open(place, size):
    drawn = shots(one("still", place=place), 1, 40, size)
    for axis, side, length in zip("xy", PLACES[place], size[::-1], strict=True):
        found = {float(getattr(shot.paths[0], axis)[0]) for shot in drawn}
        allowed = places(length)
        assert found == (set(allowed) if side is None else {length / 2 + side * (length / 2 - 32)})


@pytest.mark.parametrize("size", RADIUS)
def test_a_named_size_is_as_large_as_it_says(size):
    assert (shots(one("bouncing", size=size), count=1)[0].paths[0].radius == RADIUS[size]).all()


def test_spinning_is_clockwise_and_a_third_of_a_turn():
    assert shots(one("spinning"))[0].paths[0].angle[-1] == pytest.approx(2 * np.pi / 3)


def test_growing_and_shrinking_mirror_each_other():
    growing, shrinking = (shots(one(motion))[0].paths[0].radius for motion in ("growing", "shrinking"))
    assert np.allclose(growing, shrinking[::-1])
    assert (growing[0], growing[-1]) == (10, 25)


def test_a_bouncing_figure_meets_the_floor_and_comes_up_again():
    for shot in shots(one("bouncing"), LONG, count=5):
        y = shot.paths[0].y
        assert y[:: FRAMES - 1] == pytest.approx([y.max()] * 4)
        assert y[(FRAMES - 1) // 2] == y.max() - 32 == y.min()


@pytest.mark.parametrize(("pan", "sign"), [("left", 1), ("right", -1)])
def test_a_pan_moves_the_figure_with_the_background_to_the_other_side(pan, sign):
    for shot in shots(one("still", pan=pan), LONG, count=5):
        x = shot.paths[0].x
        assert np.array_equal(shot.scroll, x - x[0])
        assert shot.scroll[FRAMES - 1] == 32 * sign
        assert np.ptp(np.diff(shot.scroll[:FRAMES])) == 0


def test_a_drifting_background_goes_left_and_leaves_the_figure_alone():
    for shot in shots(one("still", background=Background("gray", "striped", drifting=True)), count=5):
        assert np.array_equal(shot.scroll, -2 * np.arange(FRAMES))
        assert np.ptp(shot.paths[0].x) == 0


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_a_group_never_meet_and_only_the_last_moves(size):
    rng = np.random.default_rng(2)
    for scene in scenes(*GROUPS):
        paths = random_shot(scene, rng, LONG, size).paths
        places = np.array([(path.x, path.y) for path in paths])  # (figures, 2, F)
        extents = [reach(figure.shape) * path.radius[0] for figure, path in zip(scene.figures, paths, strict=True)]
        for i, j in np.stack(np.triu_indices(len(paths), 1), axis=1):
            assert (np.abs(places[i] - places[j]).max(0) > extents[i] + extents[j]).all(), scene.caption()
        moving = np.ptp(places, axis=2).max(1) > 0
        assert moving.tolist() == [False] * (len(paths) - 1) + [True]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_crossing_figure_is_apart_at_both_ends_and_in_the_same_place_halfway(direction, size):
    scene = Scene((Figure("red", "star"), Figure("blue", "square", "fast", direction)), STRIPES, order="behind")
    still, mover = shots(scene, count=1, size=size)[0].paths
    assert (still.x == size[1] / 2).all()
    assert (still.y == size[0] / 2).all()
    way = np.array([mover.x - still.x, mover.y - still.y]).T @ DIRECTIONS[direction]  # (F,) along the direction
    assert way.tolist() == list(range(-48, 49, 6))
    assert -way[0] > 1.25 * sum(CROSSING_RADII) + 4
