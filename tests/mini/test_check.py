"""The caption check: right on real clips, not fooled by other captions, exact where the truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mini.check.blobs import connected, follow, large_parts, overlap_frames
from mini.check.check import check_clip, compare
from mini.check.describe import Pose, Seen, SeenFigure, describe_clip, spread
from mini.check.shape_match import angles
from mini.check.validate import VISIBLE, soften, wrong_scenes
from mini.world.captions import ROUND, SHAPES, Background, Figure, Scene, parse_caption
from mini.world.clips import make_clip
from mini.world.paths import FRAMES, JUMP, SIZE, SPEED, SPIN, Path, Shot, random_shot
from mini.world.render import render

GRAY = Background("gray")
STRIPES = Background("teal", "striped")
TRIANGLE = Figure("red", "triangle", "fast", "right")
CROSSING = Scene((Figure("green", "star"), Figure("blue", "square", "fast", "down")), GRAY, order="behind")
POSE = Pose(0, 64, 64, 16)
AT_REST = SeenFigure(
    "red",
    "star",
    x=64,
    y=64,
    radius=16,
    dx=0,
    dy=0,
    growth=1,
    rotation=0,
    height=0,
    drop=0,
    wander_x=0,
    wander_y=0,
    pulse=1,
    turn=0,
    start=POSE,
    end=POSE,
)
MIDDLE = {"x": 64.0, "y": 64.0, "radius": 18.0, "angle": 0.0}
TIME = np.arange(FRAMES)
BACK = 1 - np.abs(TIME - 8) / 8  # there and back


def shoot(scene: Scene, seed: int = 4, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, Shot]:
    shot = random_shot(scene, np.random.default_rng(seed), frames, size)
    return render(scene, shot).numpy(), shot


def film(scene: Scene, **path: np.ndarray | float) -> np.ndarray:
    """Render the scene with another path of its main figure; what is not given is as for a still one in the middle."""
    main = Path(*(np.full(FRAMES, value) + path.get(name, 0) for name, value in MIDDLE.items()))
    shot = shoot(scene)[1]
    return render(scene, replace(shot, paths=(*shot.paths[:-1], main))).numpy()


def wrong_items(seen: Seen, scene: Scene) -> set[str]:
    return {name for name, right in compare(seen, scene).items().items() if not right}


@pytest.mark.parametrize(("soft", "count"), [(False, 4), (True, 12)], ids=["crisp", "soft"])
def test_real_held_out_clips_are_right_and_captions_with_one_wrong_word_are_not(soft, count):
    rng = np.random.default_rng(0)
    for i in range(count):
        clip = make_clip(11, i, held_out=True)
        frames = clip.frames.numpy()
        seen = describe_clip(soften(frames, rng) if soft else frames)
        assert compare(seen, clip.scene).all, clip.caption
        for item, wrong in wrong_scenes(clip.scene, rng).items():
            assert not compare(seen, wrong).all, (clip.caption, item, wrong.caption())


@pytest.mark.parametrize(("number", "size"), [(0, (192, 128)), (1, (128, 192))])
def test_longer_clips_and_other_sizes_are_right(number, size):
    clip = make_clip(12, number, held_out=True, frames=3 * FRAMES, size=size)
    check = check_clip(clip.frames.numpy(), clip.caption)
    assert check.all, clip.caption
    assert check.keeps is True


@pytest.mark.parametrize(
    "caption",
    [
        "a spinning red star at the top left on a gray background",
        "a still red square and a blue star moving fast to the left in front of it on a teal background",
        "a still red star on a gray checkered background while the camera pans left",
    ],
)
def test_every_item_is_a_plain_bool(caption):
    """Reports are written as JSON, which knows no bools of NumPy."""
    scene = parse_caption(caption)
    for frames in (FRAMES, 2 * FRAMES):
        items = check_clip(shoot(scene, frames=frames)[0], caption).items()
        assert {type(right) for right in items.values()} == {bool}, items


def test_a_picture_is_judged_by_what_it_can_show():
    rng = np.random.default_rng(0)
    for i in range(10):
        clip = make_clip(13, i, held_out=True, frames=1)
        seen = describe_clip(soften(clip.frames.numpy(), rng))
        check = compare(seen, clip.scene)
        assert check.all, clip.caption
        shown = {"found", "color", "shape", "background", "pattern", "size", "place"}
        assert {"found", "color", "shape"} <= check.items().keys() <= shown
        for item, wrong in wrong_scenes(clip.scene, rng).items():
            if item in VISIBLE:
                assert not compare(seen, wrong).all, (clip.caption, item, wrong.caption())


@pytest.mark.parametrize(
    ("scene", "wrong", "items"),
    [
        (TRIANGLE, {"color": "green"}, {"color"}),
        (TRIANGLE, {"shape": "square"}, {"shape"}),
        (TRIANGLE, {"direction": "left"}, {"direction"}),
        (TRIANGLE, {"motion": "slowly"}, {"speed"}),
        (TRIANGLE, {"motion": "still", "direction": None}, {"still_or_moving"}),
        (TRIANGLE, {"size": "large"}, {"size"}),
        (TRIANGLE, {"motion": "growing", "direction": None}, {"still_or_moving", "grow"}),
        (TRIANGLE, {"motion": "bouncing", "direction": None}, {"still_or_moving", "bounce"}),
        (Figure("red", "star", "spinning", size="small"), {"size": ""}, {"size"}),
        (Figure("red", "heart", place="top"), {"place": "center"}, {"place"}),
        (Figure("red", "star", "spinning"), {"motion": "shrinking"}, {"shrink"}),
        (Figure("red", "star", "bouncing"), {"motion": "spinning"}, {"spin"}),
        (Figure("red", "ring", "growing"), {"motion": "still"}, {"still_or_moving"}),
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
    assert wrong_items(describe_clip(frames), Scene((replace(scene.main, **wrong),), GRAY)) == items


@pytest.mark.parametrize(
    ("background", "pan", "wrong", "items"),
    [
        (STRIPES, None, {"background": replace(STRIPES, color="navy")}, {"background"}),
        (STRIPES, None, {"background": replace(STRIPES, pattern="checkered")}, {"pattern"}),
        (replace(STRIPES, pattern="dotted"), None, {"background": STRIPES}, {"pattern"}),
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
    assert wrong_items(seen, replace(scene, **wrong)) == items


def test_the_caption_decides_which_items_apply():
    frames, _ = shoot(Scene((TRIANGLE,), GRAY))
    basic = {"found", "color", "shape", "still_or_moving"}
    for caption, items in (
        ("a red triangle moving fast right", {"size", "speed", "direction"}),
        ("a still red triangle at the top", {"size", "place"}),
        ("a growing red star on a gray background", {"grow", "background", "pattern"}),
        ("a still red star and a blue star moving fast up in front of it", {"speed", "direction", "order"}),
    ):
        assert set(check_clip(frames, caption).items()) == basic | items, caption


@pytest.mark.parametrize("number", [2, 3])
def test_of_a_group_the_right_one_has_to_move_and_the_others_to_stay(number):
    still, third, mover = Figure("green", "star"), Figure("white", "ring"), Figure("blue", "square", "slowly", "down")
    scene = Scene((still, third, mover)[-number:], GRAY)
    first = scene.figures[0]
    seen = describe_clip(shoot(scene)[0])
    assert compare(seen, scene).all
    swapped = replace(first, color="blue", shape="square"), replace(mover, color=first.color, shape=first.shape)
    assert "still_or_moving" in wrong_items(
        seen, replace(scene, figures=(swapped[0], *scene.figures[1:-1], swapped[1]))
    )
    assert wrong_items(seen, replace(scene, figures=(replace(first, color="red"), *scene.figures[1:]))) == {"color"}
    alone = compare(seen, replace(scene, figures=(mover,)))
    assert not any((alone.found, alone.color, alone.shape, alone.speed, alone.direction, alone.size))
    assert alone.background
    assert alone.pattern


@pytest.mark.parametrize("order", ["behind", "in front"])
def test_of_two_figures_that_cross_the_right_one_is_in_front(order):
    scene = replace(CROSSING, order=order)
    seen = describe_clip(shoot(scene, frames=3 * FRAMES)[0])
    assert compare(seen, scene).all
    still, mover = sorted(seen.figures, key=lambda figure: figure.dy)
    assert (still.color, mover.color) == ("green", "blue")
    assert (still.dy, mover.dy) == pytest.approx((0, 96), abs=1)
    assert wrong_items(seen, replace(scene, order="in front" if order == "behind" else "behind")) == {"order"}


def test_figures_that_pass_each_other_do_not_cross():
    seen = describe_clip(shoot(replace(CROSSING, order=None))[0])
    assert wrong_items(seen, CROSSING) == {"order"}


def test_a_figure_that_is_not_there_for_a_while_has_not_crossed_the_other():
    scene = Scene((Figure("green", "star"), Figure("blue", "square", "slowly", "down")), GRAY)
    frames, shot = shoot(scene)
    alone = render(Scene(scene.figures[:1], GRAY), replace(shot, paths=shot.paths[:1])).numpy()
    frames[4:13] = alone[4:13]
    assert not compare(describe_clip(frames), scene).found


def test_measurements_agree_with_the_shot():
    scene = Scene((Figure("yellow", "star", "spinning"),), replace(STRIPES, drifting=True))
    frames, shot = shoot(scene)
    seen = describe_clip(frames)
    (figure,), (path,) = seen.figures, shot.paths
    assert seen.scroll == pytest.approx(shot.scroll[-1], abs=0.1)
    assert figure.rotation == pytest.approx(path.angle[-1], abs=0.1)
    assert (figure.x, figure.y) == pytest.approx((path.x[0], path.y[0]), abs=0.3)
    assert np.hypot(figure.dx, figure.dy) < 0.3
    frames, shot = shoot(Scene((Figure("purple", "triangle", "growing"),), GRAY))
    first, last = shot.paths[0].radius[[0, -1]]
    assert describe_clip(frames).figures[0].growth == pytest.approx((last / first) ** 2, rel=0.2)
    frames, shot = shoot(Scene((replace(TRIANGLE, direction="up"),), GRAY))
    assert describe_clip(frames).figures[0].dy == pytest.approx(shot.paths[0].y[-1] - shot.paths[0].y[0], abs=0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_radius_is_that_of_the_shape(shape):
    for size, radius in (("small", 13), ("", 18), ("large", 25)):
        frames, _ = shoot(Scene((Figure("white", shape, size=size),), GRAY), frames=1)
        assert describe_clip(frames).figures[0].radius == pytest.approx(radius, rel=0.05)


def test_an_outline_that_is_none_of_the_shapes_is_none():
    frames, shot = shoot(Scene((Figure("red", "square"),), GRAY))
    x, y = int(shot.paths[0].x[0]), int(shot.paths[0].y[0])
    frames[:, y - 14 : y, x - 5 : x + 14] = frames[:, :1, :1]  # what is left is an L
    assert describe_clip(frames).figures[0].shape is None


def test_a_later_chunk_with_another_figure_does_not_keep_the_scene():
    scene = Scene((Figure("orange", "circle"),), GRAY)
    frames, _ = shoot(scene, frames=2 * FRAMES)
    assert check_clip(frames, scene.caption()).keeps is True
    assert check_clip(frames[:-1], scene.caption()).keeps is None  # no second whole chunk
    for change in ({"figures": (Figure("orange", "square"),)}, {"background": STRIPES}):
        other, _ = shoot(replace(scene, **change))
        check = check_clip(np.concatenate([frames[:FRAMES], other]), scene.caption())
        assert {name for name, right in check.items().items() if not right} == {"keeps"}


SMALL, LARGE = (Figure("red", "star", size=size, place="center") for size in ("small", "large"))
DRIFT = replace(STRIPES, drifting=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Scene((SMALL,), GRAY), Scene((LARGE,), GRAY)),
        (Scene((replace(SMALL, place="top left"),), GRAY), Scene((replace(SMALL, place="bottom right"),), GRAY)),
        (Scene((TRIANGLE,), GRAY), Scene((replace(TRIANGLE, motion="still", direction=None, place="left"),), GRAY)),
        (Scene((SMALL,), GRAY), Scene((replace(SMALL, motion="spinning"),), GRAY)),
        (Scene((SMALL,), DRIFT), Scene((SMALL,), STRIPES)),
    ],
)
def test_a_later_chunk_goes_on_where_the_one_before_it_ended(first, second):
    clips = [shoot(scene)[0] for scene in (first, second)]
    seen = describe_clip(np.concatenate(clips))
    assert wrong_items(seen, first) == {"keeps"}
    assert not wrong_items(describe_clip(shoot(first, frames=2 * FRAMES)[0]), first)


@pytest.mark.parametrize(
    "figure", [TRIANGLE, Figure("purple", "triangle", "growing"), Figure("red", "star", "bouncing")]
)
def test_what_moves_does_not_stop_where_a_chunk_ends(figure):
    frames, _ = shoot(Scene((figure,), GRAY))
    stopped = np.concatenate([frames, np.repeat(frames[-1:], FRAMES, 0)])
    assert wrong_items(describe_clip(stopped), Scene((figure,), GRAY)) == {"keeps"}


def test_a_figure_that_changes_its_color_has_none():
    scenes = [Scene((Figure(color, "square"),), GRAY) for color in ("red", "blue")]
    first, second = (shoot(scene)[0] for scene in scenes)
    for start in (9, 13):
        assert wrong_items(describe_clip(np.concatenate([first[:start], second[start:]])), scenes[0]) == {"color"}


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
        (np.zeros((16, 128, 128, 3), np.uint8), "needs 17 frames, or one"),
        (np.zeros((17, 64, 128, 3), np.uint8), "of 128 x 128 pixels"),
        (np.zeros((17, 128, 128, 3), np.float32), "uint8"),
        (np.zeros((17, 3, 128, 128), np.uint8), "F, H, W, 3"),
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
        (20, 4, "right", True),
        (-20, 4, "left", True),
        (2, -20, "up", True),
        (2, 20, "down", True),
        (20, 18, "right", False),  # a diagonal has no direction
        (6, 0, "right", False),  # nor has what hardly moves
    ],
)
def test_directions_by_hand(dx, dy, direction, right):
    seen = Seen("gray", "plain", 0.0, (replace(AT_REST, dx=dx, dy=dy),))
    check = compare(seen, Scene((Figure("red", "star", "slowly", direction),), GRAY))
    assert check.direction is right


@pytest.mark.parametrize(
    ("dy", "height", "drop", "motion"),
    [
        (0, 32, 32, "bouncing"),
        (19, 19, 19, "slowly"),  # falls
        (-19, 19, 0, "slowly"),  # rises
        (2, 7, 7, "still"),
    ],
)
def test_only_what_comes_back_bounces(dy, height, drop, motion):
    figure = replace(AT_REST, dy=dy, height=height, drop=drop)
    seen = Seen("gray", "plain", 0.0, (figure,))
    directions = {"slowly": "down" if dy > 0 else "up"}
    for asked in ("bouncing", "slowly", "still"):
        check = compare(seen, Scene((Figure("red", "star", asked, directions.get(asked)),), GRAY))
        assert check.all == (asked == motion), asked


STILL, SPINNING, BOUNCING = Figure("red", "star"), Figure("red", "star", "spinning"), Figure("red", "star", "bouncing")
FAST = Figure("red", "star", "fast", "left")
TURNING, GOING = {"angle": SPIN * TIME}, {"x": 32 - SPEED["fast"] * TIME}
RISING = {"y": 16 - JUMP * np.abs(np.sin(np.pi * TIME / (FRAMES - 1)))}
SWELLING = {"radius": 15 * TIME / (FRAMES - 1) - 8}


@pytest.mark.parametrize(
    ("figure", "path", "wrong"),
    [
        (STILL, {}, {"x": 32 * BACK}),
        (STILL, {}, {"y": 12 * BACK}),
        (STILL, {}, {"radius": 4 * np.sin(2 * np.pi * TIME / 16)}),
        (STILL, {}, {"angle": np.pi / 4 * np.sin(np.pi * TIME / 16)}),
        (replace(STILL, place="center"), {}, {"x": -15 + 30 * BACK}),
        (SPINNING, TURNING, {"x": 64 * BACK - 32}),
        (SPINNING, TURNING, {"y": 64 * BACK - 32}),
        (Figure("red", "star", "growing"), SWELLING, {"x": 64 * BACK - 32}),
        (Figure("red", "star", "growing"), SWELLING, {"y": 64 * BACK - 32}),
        (BOUNCING, RISING, {"x": 64 * BACK - 32}),
        (FAST, GOING, {"y": 64 * BACK - 32}),
        (FAST, GOING, TURNING),
        (FAST, GOING, SWELLING),
        (replace(FAST, shape="circle"), GOING, {"x": np.where(TIME < 8, 32, -32)}),
    ],
)
def test_a_figure_does_nothing_but_what_its_caption_says(figure, path, wrong):
    scene = Scene((figure,), GRAY)
    assert not wrong_items(describe_clip(film(scene, **path)), scene)
    assert "still_or_moving" in wrong_items(describe_clip(film(scene, **path | wrong)), scene)


@pytest.mark.parametrize("shape", ROUND)
def test_that_a_round_figure_spins_cannot_be_seen(shape):
    scene = Scene((Figure("red", shape, "spinning"),), GRAY)
    seen = describe_clip(film(scene, **TURNING))
    check = compare(seen, scene)
    assert check.all
    assert check.spin is None
    assert wrong_items(describe_clip(film(scene, x=32 * BACK)), scene) == {"still_or_moving"}


@pytest.mark.parametrize(
    ("lapses", "steady"),
    [
        ([5], True),
        ([5, 6, 9], True),
        ([5, 6, 7], False),
        ([2, 5, 8, 11], False),
        ([0], False),
        ([16], False),
        (range(12, 17), False),
    ],
)
@pytest.mark.parametrize("number", [0, 2])
def test_the_number_of_figures_may_be_another_in_few_frames_only(number, lapses, steady):
    scene = Scene((replace(STILL, place="top left"),), GRAY)
    frames = film(scene, x=-32, y=-32)
    for time in lapses:
        frames[time] = frames[time, -1, -1] if number == 0 else np.maximum(frames[time], frames[time, ::-1, ::-1])
    assert compare(describe_clip(frames), scene).found is steady


@pytest.mark.parametrize(
    ("frames", "size", "direction", "order"),
    [
        (51, (128, 192), "left", "behind"),
        (51, (192, 128), "up", "in front"),
        (34, (160, 160), "left", "behind"),
    ],
)
def test_figures_may_cross_again_where_chunks_meet(frames, size, direction, order):
    scene = replace(CROSSING, figures=(CROSSING.figures[0], replace(CROSSING.main, direction=direction)), order=order)
    clip, _ = shoot(scene, frames=frames, size=size)
    assert not wrong_items(describe_clip(clip), scene)


def test_a_figure_that_is_gone_when_it_should_cross_again_is_missing():
    frames, shot = shoot(CROSSING, frames=2 * FRAMES)
    assert not wrong_items(describe_clip(frames), CROSSING)
    alone = render(Scene(CROSSING.figures[:1], GRAY), replace(shot, paths=shot.paths[:1])).numpy()
    frames[FRAMES + 2 :] = alone[FRAMES + 2 :]
    assert wrong_items(describe_clip(frames), CROSSING) == {"keeps"}


@pytest.mark.parametrize(("seen", "turn"), [([0, 0, 2.4, 0], 0), ([0, 0.2, 0.4, 0.6, 0.8], 0.4), ([0, 1], 0)])
def test_one_misread_frame_is_no_turn(seen, turn):
    assert spread(np.array(seen)) == pytest.approx(turn)


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


def part(x: int, side: int = 8) -> np.ndarray:
    mask = np.zeros((20, 200), bool)
    mask[5 : 5 + side, x : x + side] = True
    return mask


def test_a_narrow_seam_does_not_part_a_figure_and_specks_are_none():
    masks = np.stack([part(4) | part(14) | part(60, 3), part(4) | part(15)])
    assert [list(parts.sum((1, 2))) for parts in large_parts(masks)] == [[128], [64, 64]]


RED, BLUE = np.eye(3)[[0, 2]]


def test_figures_are_followed_by_place_not_by_size():
    frames = [np.stack([part(4, 9), part(24, 7)]), np.stack([part(24, 9), part(4, 7)])]
    times, numbers = follow(frames, [np.stack([RED, RED])] * 2)
    assert times.tolist() == [0, 1]
    assert numbers.tolist() == [[0, 1], [1, 0]]
    assert follow([frames[0], frames[0][:1], frames[0][:0]], [np.stack([RED, RED])] * 3)[1].size == 0  # not steady


def test_figures_that_have_crossed_are_told_apart_by_color():
    apart, one = [np.stack([part(40), part(70)]), np.stack([part(100), part(70)])], np.stack([part(70)])
    frames = [*apart[:1] * 4, *[one] * 9, *apart[1:] * 4]
    assert overlap_frames(frames).tolist() == list(range(4, 13))
    for order in ([0, 1], [1, 0]):
        colors = [np.stack([RED, BLUE])] * 4 + [RED[None]] * 9 + [np.stack([RED, BLUE])[order]] * 4
        assert follow(frames, colors, crossing=True)[1].tolist() == [[0, 1]] * 4 + [order] * 4


@pytest.mark.parametrize(
    ("before", "within", "after"),
    [
        ([40, 70], [], [100, 70]),  # nothing is left
        ([4, 70], [70], [136, 70]),  # far from each other
        ([40, 70], [70], [70]),  # one is gone for good
        ([70], [40, 70], [70]),
    ],
)
def test_only_figures_that_meet_and_part_again_overlap(before, within, after):
    frames = [[part(x) for x in places] for places in [before] * 4 + [within] * 9 + [after] * 4]
    assert not len(overlap_frames([np.reshape(masks, (-1, 20, 200)) for masks in frames]))


def test_angles_go_on_past_the_symmetry_of_the_shape():
    degrees = np.arange(0, 170, 17.0)
    templates = np.arange(0, 72, 6.0)
    gap = (degrees[:, None] - templates + 36) % 72 - 36
    assert np.rad2deg(angles(1 - (gap / 36) ** 2, 72)) == pytest.approx(degrees, abs=0.1)
