"""Painting: colors as named, textures that repeat and move as the shot says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mini.world.captions import BACKGROUNDS, TEXTURES, Background, Figure, Scene
from mini.world.clips import make_clip
from mini.world.paths import FRAMES, SIZE, random_shot
from mini.world.render import PERIOD, paint_background, render, square_wave, tones

STAR = Figure("white", "star")


def shoot(scene: Scene, seed: int = 0, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray, float]:
    """Frames, scroll and offset of a drawn shot."""
    shot = random_shot(scene, np.random.default_rng(seed), frames)
    return render(scene, shot), shot.scroll, shot.offset


def test_a_square_wave_by_hand():
    position = np.array([0.0, 1.0, 3.25, 4.0, 4.75, 8.0, 12.0, 15.0, 16.0])
    assert square_wave(position, period=16) == pytest.approx([-1, -1, -1, 0, 1, 1, 0, -1, -1])


def test_render_paints_color_over_background():
    clip, _, _ = shoot(Scene((Figure("white", "circle"),), Background("black")))
    assert clip.shape == (FRAMES, *SIZE, 3)
    assert clip.dtype == np.uint8
    assert clip.max() == 247  # 0.97 * 255
    assert clip.min() == 8  # 0.03 * 255


def test_a_gradient_darkens_to_half():
    picture = paint_background(Background("pink", "gradient"), 0.0, (64, 80))
    assert picture[0] == pytest.approx(np.tile(BACKGROUNDS["pink"], (80, 1)))
    assert picture[-1] == pytest.approx(picture[0] / 2)
    assert picture[:, 0] == pytest.approx(picture[:, -1])


@pytest.mark.parametrize("color", BACKGROUNDS)
@pytest.mark.parametrize("pattern", TEXTURES)
def test_a_texture_has_two_tones_and_repeats_after_its_period(color, pattern):
    background = Background(color, pattern)
    picture = paint_background(background, 0.0, (64, 64))
    assert np.allclose(paint_background(background, PERIOD[pattern], (64, 64)), picture)
    assert np.abs(paint_background(background, PERIOD[pattern] / 2, (64, 64)) - picture).max() > 0.15
    for tone in tones(color):
        assert (np.abs(picture - tone).max(-1) < 1e-9).mean() > 0.3


def test_stripes_are_half_a_period_wide_and_checks_square():
    stripes = paint_background(Background("gray", "striped"), 0.0, (64, 64))[..., 0]
    assert (stripes == stripes[0]).all()
    dark = (stripes[0] < 0.4).astype(int)
    assert (dark[:16].sum(), dark.sum()) == (8, 32)
    checks = paint_background(Background("gray", "checkered"), 0.0, (64, 64))[..., 0]
    assert np.allclose(checks, checks.T)
    assert ((checks[0] < 0.4) != (checks[16] < 0.4)).all()


@pytest.mark.parametrize("pattern", TEXTURES)
def test_scrolling_by_whole_pixels_shifts_the_picture(pattern):
    background = Background("navy", pattern)
    still, moved = (paint_background(background, scroll, (48, 96)) for scroll in (0.3, 5.3))
    assert np.allclose(moved[:, 5:], still[:, :-5])


@pytest.mark.parametrize(("drifting", "pan"), [(True, None), (False, "left"), (False, "right"), (False, None)])
def test_the_background_of_a_clip_moves_as_its_shot_says(drifting, pan):
    scene = Scene((STAR,), Background("teal", "checkered", drifting), pan)
    clip, scroll, offset = shoot(scene)
    assert bool(scroll.any()) == (drifting or pan is not None)
    for i in (0, 5, FRAMES - 1):
        painted = paint_background(scene.background, offset + scroll[i], SIZE)[:4] * 255  # above the figure
        assert np.abs(clip[i, :4] - painted).max() < 0.51


def test_every_figure_of_a_pair_is_painted():
    scene = Scene((STAR, Figure("red", "circle", "slowly", "up")), Background("black"))
    clip, _, _ = shoot(scene)
    for color in ((247, 247, 247), (230, 31, 31)):
        assert all((np.abs(frame - color).max(-1) < 1.5).sum() > 60 for frame in clip.astype(float))


def test_a_longer_clip_starts_with_the_shorter_one():
    for index in range(10):
        short, long = make_clip(8, index), make_clip(8, index, frames=2 * FRAMES)
        assert short.caption == long.caption
        assert np.array_equal(short.frames, long.frames[:FRAMES])


def test_the_background_does_not_depend_on_the_figure():
    scene = Scene((STAR,), Background("brown", "striped"))
    first, second = (shoot(replace(scene, figures=(f,)))[0] for f in (STAR, replace(STAR, color="blue")))
    assert np.array_equal(first[:, :2], second[:, :2])
