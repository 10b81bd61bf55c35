"""Drawing: areas known on paper, shapes that stay in frame, speeds as the captions say."""

from __future__ import annotations

import numpy as np
import pytest

from opensora.mini.captions import Scene, random_scene
from opensora.mini.shapes import FRAMES, SIZE, coverage, polygon, random_path, render


def polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star"])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_coverage_adds_up_to_the_area_of_the_shape(shape, angle):
    radius = 12.0
    unit = np.pi if shape == "circle" else polygon_area(polygon(shape))
    area = coverage(shape, 32.3, 31.8, radius, angle).sum()
    assert area == pytest.approx(unit * radius**2, rel=0.02)


def test_the_whole_shape_is_in_frame_in_every_frame():
    rng = np.random.default_rng(0)
    for _ in range(60):
        scene = random_scene(rng)
        path = random_path(scene, rng)
        for x, y, radius, angle in zip(path.x, path.y, path.radius, path.angle, strict=True):
            covered = coverage(scene.shape, x, y, radius, angle) > 0.5
            assert not (covered[0].any() or covered[-1].any() or covered[:, 0].any() or covered[:, -1].any())


@pytest.mark.parametrize(("motion", "low", "high"), [("slowly", 8, 14), ("fast", 30, 36), ("still", 0, 0.01)])
def test_displacement_matches_the_speed_class(motion, low, high):
    rng = np.random.default_rng(1)
    direction = None if motion == "still" else "right"
    for _ in range(20):
        path = random_path(Scene("red", "square", motion, direction, "gray"), rng)
        assert low <= path.x[-1] - path.x[0] <= high
        assert np.ptp(path.y) == 0


def test_render_paints_color_over_background():
    scene = Scene("white", "circle", "still", None, "black")
    clip = render(scene, random_path(scene, np.random.default_rng(0)))
    assert clip.shape == (FRAMES, SIZE, SIZE, 3)
    assert clip.max() == 247  # 0.97 * 255
    assert clip.min() == 8  # 0.03 * 255
