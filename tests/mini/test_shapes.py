"""Drawn shapes against areas, angles and distances known on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mini.world.captions import ROUND, SHAPES
from mini.world.shapes import CROSS, HEART_SIDE, RING_WIDTH, SYMMETRY, coverage, polygon, polygon_distance, reach

SIZE = (64, 64)


def draw(shape: str, radius: float = 12.0, angle: float = 0.0, x: float = 32.3, y: float = 31.8, size=SIZE):
    values = (torch.tensor([float(value)]) for value in (x, y, radius, angle))
    return coverage(shape, *values, size)[0]


def unit_area(shape: str) -> float:
    """The area of a shape of unit size, by formulas."""
    if shape in ROUND:
        return np.pi * (1 - (1 - RING_WIDTH) ** 2 if shape == "ring" else 1)
    if shape == "heart":  # a square and two half discs
        return HEART_SIDE**2 * (1 + np.pi / 4)
    if shape == "cross":  # two bars that share a square
        return 8 * CROSS[0] * CROSS[1] - 4 * CROSS[0] ** 2
    x, y = polygon(shape).T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_coverage_adds_up_to_the_area_of_the_shape(shape, angle):
    assert draw(shape, angle=angle).sum() == pytest.approx(unit_area(shape) * 12**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_looks_the_same_after_its_symmetry_and_not_before(shape):
    symmetry = np.deg2rad(SYMMETRY[shape])
    assert torch.allclose(draw(shape), draw(shape, angle=symmetry), atol=1e-4)
    half = (draw(shape) - draw(shape, angle=symmetry / 2)).abs().max()
    assert half < 1e-4 if shape in ROUND else half > 0.5


def test_a_positive_angle_turns_clockwise():
    tip = draw("triangle", angle=0.5, x=32, y=32)[: 32 - 8].sum(0)  # of an upright triangle; it goes to the right
    assert np.average(np.arange(64) + 0.5, weights=tip) > 34


def test_a_ring_is_open_and_a_heart_points_down():
    assert draw("ring")[31, 31] == 0
    rows = draw("heart", x=32, y=32).sum(1)
    assert rows[:32].sum() > 1.3 * rows[32:].sum()


def test_distance_to_a_square_by_hand():
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    x, y = torch.tensor([(0.0, 0.0), (0.25, 0.0), (3.0, 0.0), (4.0, 5.0)]).T
    assert polygon_distance(x, y, corners).tolist() == pytest.approx([-1, -0.75, 2, 5])


@pytest.mark.parametrize("shape", SHAPES)
def test_reach_is_where_a_shape_ends(shape):
    turned = torch.stack([draw(shape, angle=angle, x=32, y=32) for angle in np.linspace(0, 6.28, 60)])
    columns = np.flatnonzero(turned.amax((0, 1)) > 0.01)
    assert columns[-1] + 1 - 32 == pytest.approx(12 * reach(shape), abs=1)


def test_frames_need_not_be_square_and_figures_may_be_cut_off_or_outside():
    size = (40, 90)
    assert draw("circle", x=70, y=20, radius=8, size=size).shape == size
    half = draw("circle", x=90, y=20, radius=8, size=size)
    assert half.sum() == pytest.approx(np.pi * 32, rel=0.02)
    assert half[:, :80].sum() == 0
    assert draw("circle", x=-200, y=500, radius=8, size=size).sum() == 0
