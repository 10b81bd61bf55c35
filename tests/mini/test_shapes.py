"""Drawn shapes against areas, angles and distances known on paper."""

from __future__ import annotations

import numpy as np
import pytest

from mini.world.captions import SHAPES
from mini.world.shapes import SYMMETRY, coverage, polygon, polygon_distance, reach

SIZE = (64, 64)


def polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_coverage_adds_up_to_the_area_of_the_shape(shape, angle):
    radius = 12.0
    unit = np.pi if shape == "circle" else polygon_area(polygon(shape))
    area = coverage(shape, 32.3, 31.8, radius, angle, SIZE).sum()
    assert area == pytest.approx(unit * radius**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_looks_the_same_after_its_symmetry_and_not_before(shape):
    def drawn(degrees: float) -> np.ndarray:
        return coverage(shape, 32.3, 31.8, 12.0, np.deg2rad(degrees), SIZE)

    assert np.allclose(drawn(0), drawn(SYMMETRY[shape]), atol=1e-6)
    if shape != "circle":
        assert np.abs(drawn(0) - drawn(SYMMETRY[shape] / 2)).max() > 0.5


def test_a_positive_angle_turns_clockwise():
    # The tip of an upright triangle goes to the right.
    tip = coverage("triangle", 32, 32, 12, 0.5, SIZE)[: 32 - 8].sum(0)
    assert np.average(np.arange(64) + 0.5, weights=tip) > 34


def test_distance_to_a_square_by_hand():
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    points = np.array([(0.0, 0.0), (0.25, 0.0), (3.0, 0.0), (4.0, 5.0)])
    assert polygon_distance(points, corners) == pytest.approx([-1, -0.75, 2, 5])


@pytest.mark.parametrize("shape", SHAPES)
def test_reach_is_where_a_shape_ends(shape):
    columns = np.flatnonzero(
        np.max([coverage(shape, 32, 32, 12, angle, SIZE) for angle in np.linspace(0, 6.28, 60)], axis=(0, 1)) > 0.01
    )
    assert columns[-1] + 1 - 32 == pytest.approx(12 * reach(shape), abs=1)


def test_frames_need_not_be_square():
    covered = coverage("circle", 70.0, 20.0, 8.0, 0.0, (40, 90))
    assert covered.shape == (40, 90)
    assert covered.sum() == pytest.approx(np.pi * 64, rel=0.02)
