"""Painting: colors as named, textures that repeat and move as the shot says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mini.world.captions import BACKGROUNDS, COLORS, TEXTURES, Background, Figure, Scene
from mini.world.clips import make_clip
from mini.world.paths import FRAMES, SIZE, Path, Shot, random_shot
from mini.world.render import DOT, PERIOD, paint_background, render, square_wave, tones

STAR = Figure("white", "star")
MIDDLE = np.array([64.0])


def picture(background: Background, scroll: float = 0.0, size: tuple[int, int] = (128, 128)) -> torch.Tensor:
    return paint_background(background, torch.tensor([scroll]), size)[0]


def levels(color: tuple[float, ...]) -> torch.Tensor:
    return (torch.tensor(color) * 255 + 0.5).floor()


def test_a_square_wave_by_hand():
    position = torch.tensor([0.0, 1.0, 3.25, 4.0, 4.75, 8.0, 12.0, 15.0, 16.0])
    assert square_wave(position, period=16).tolist() == pytest.approx([-1, -1, -1, 0, 1, 1, 0, -1, -1])


def test_render_paints_color_over_background():
    scene = Scene((Figure("white", "circle"),), Background("black"))
    clip = render(scene, random_shot(scene, np.random.default_rng(0)))
    assert clip.shape == (FRAMES, *SIZE, 3)
    assert clip.dtype == torch.uint8
    assert clip.max() == 247  # 0.97 * 255
    assert clip.min() == 8  # 0.03 * 255


def test_a_gradient_darkens_to_half():
    painted = picture(Background("pink", "gradient"))
    assert torch.allclose(painted[0], torch.tensor(BACKGROUNDS["pink"]))
    assert torch.allclose(painted[-1], painted[0] / 2)
    assert torch.equal(painted[:, 0], painted[:, -1])


@pytest.mark.parametrize("color", BACKGROUNDS)
@pytest.mark.parametrize("pattern", TEXTURES)
def test_a_texture_has_two_tones_that_can_be_told_apart_and_repeats_after_its_period(color, pattern):
    background = Background(color, pattern)
    painted, period = picture(background), PERIOD[pattern]
    assert torch.allclose(picture(background, period), painted)
    assert (picture(background, period / 2) - painted).abs().max() > 0.15
    for tone in tones(color):
        assert ((painted - tone).abs().amax(-1) < 1e-6).float().mean() > 0.25


def test_stripes_checks_and_dots_have_their_measures():
    stripes, checks, dots = (
        ((picture(Background("gray", pattern))[..., 0] - 0.3) / 0.2).round().bool() for pattern in TEXTURES
    )
    assert (stripes == stripes[0]).all()
    assert (stripes[0, :8].all(), stripes[0, 8:24].any(), stripes[0, 24:32].all()) == (True, False, True)
    assert torch.equal(checks, checks.T)
    assert (checks[:, :96] != checks[:, 32:]).all()
    assert (~dots).float().mean() == pytest.approx(np.pi * DOT**2 / PERIOD["dotted"] ** 2, rel=0.03)
    assert not dots[16, 16]
    assert dots[0].all()


@pytest.mark.parametrize("pattern", TEXTURES)
def test_a_positive_scroll_moves_the_texture_to_the_right(pattern):
    still, moved = (picture(Background("navy", pattern), scroll) for scroll in (0.0, 5.0))
    assert torch.allclose(moved[:, 5:], still[:, :-5])
    assert not torch.allclose(moved, still)


@pytest.mark.parametrize(("drifting", "pan"), [(True, None), (False, "left"), (False, "right"), (False, None)])
def test_the_background_of_a_clip_moves_as_its_shot_says(drifting, pan):
    scene = Scene((STAR,), Background("teal", "checkered", drifting), pan)
    shot = random_shot(scene, np.random.default_rng(0))
    assert shot.scroll.any() == (drifting or pan is not None)
    painted = paint_background(scene.background, torch.as_tensor(shot.scroll, dtype=torch.float32), SIZE)
    above = slice(0, 10)  # the figure
    assert (render(scene, shot)[:, above] - painted[:, above] * 255).abs().max() < 0.51


@pytest.mark.parametrize("order", ["behind", "in front"])
def test_of_two_figures_in_one_place_the_order_decides_which_is_seen(order):
    figures = Figure("red", "square"), Figure("blue", "circle", "fast", "right")
    paths = tuple(Path(MIDDLE, MIDDLE, np.array([radius]), np.array([0.0])) for radius in (14.0, 10.0))
    frame = render(Scene(figures, Background("black"), order=order), Shot(paths, np.zeros(1), SIZE))[0]
    assert torch.equal(frame[64, 64].float(), levels(COLORS["red" if order == "behind" else "blue"]))
    assert torch.equal(frame[64, 53].float(), levels(COLORS["red"]))  # around the smaller one


def test_every_figure_of_three_is_painted():
    figures = STAR, Figure("orange", "ring"), Figure("red", "circle", "slowly", "up")
    scene = Scene(figures, Background("black"))
    clip = render(scene, random_shot(scene, np.random.default_rng(0))).float()
    for figure in figures:
        painted = ((clip - levels(COLORS[figure.color])).abs().amax(-1) < 1.5).sum((1, 2))
        assert (painted > 200).all()


def test_a_longer_clip_starts_with_the_shorter_one():
    for index in range(10):
        short, long = make_clip(8, index), make_clip(8, index, frames=2 * FRAMES)
        assert short.caption == long.caption
        assert torch.equal(short.frames, long.frames[:FRAMES])
