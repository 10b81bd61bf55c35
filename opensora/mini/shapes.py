"""Drawing scenes: anti-aliased shapes from signed distance functions, moving over a plain or gradient background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opensora.mini.captions import BACKGROUNDS, COLORS, DIRECTIONS, Scene

SIZE = 64  # pixels per side
FRAMES = 17
STAR_POINTS = 5
STAR_INNER = 0.50  # inner over outer radius


@dataclass(frozen=True)
class Path:
    """Where the shape is in each frame; every array is (FRAMES,), pixels and radians."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def polygon(shape: str) -> np.ndarray:
    """Corners (K, 2) of a unit-size shape around its centroid, in drawing order; y points down."""
    if shape == "square":
        half = 0.87
        return np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
    if shape == "triangle":
        angles = -np.pi / 2 + np.arange(3) * 2 * np.pi / 3
        return 1.22 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    angles = -np.pi / 2 + np.arange(2 * STAR_POINTS) * np.pi / STAR_POINTS
    radii = np.where(np.arange(2 * STAR_POINTS) % 2 == 0, 1.25, 1.25 * STAR_INNER)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def polygon_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside) of ``points`` (..., 2) to the polygon ``corners`` (K, 2)."""
    squared = np.full(points.shape[:-1], np.inf)
    inside = np.zeros(points.shape[:-1], dtype=bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge = b - a
        offset = points - a
        along = np.clip((offset @ edge) / (edge @ edge), 0, 1)
        gap = offset - along[..., None] * edge
        squared = np.minimum(squared, (gap**2).sum(-1))
        crosses = (a[1] > points[..., 1]) != (b[1] > points[..., 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = a[0] + (points[..., 1] - a[1]) * edge[0] / edge[1]
        inside ^= crosses & (points[..., 0] < at)
    return np.where(inside, -1, 1) * np.sqrt(squared)


def coverage(shape: str, x: float, y: float, radius: float, angle: float, size: int = SIZE) -> np.ndarray:
    """How much of each pixel (size, size) the shape covers, 0 to 1."""
    grid = np.arange(size) + 0.5
    points = np.stack(np.meshgrid(grid - x, grid - y), axis=-1)  # (rows, columns, 2)
    if shape == "circle":
        distance = np.hypot(points[..., 0], points[..., 1]) - radius
    else:
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        distance = polygon_distance(points, polygon(shape) @ turn * radius)
    return np.clip(0.5 - distance, 0, 1)


def reach(shape: str) -> float:
    """Largest distance of a point of the unit shape from its center."""
    return 1.0 if shape == "circle" else float(np.linalg.norm(polygon(shape), axis=1).max())


def random_path(scene: Scene, rng: np.random.Generator) -> Path:
    """A path that fits the scene's words and keeps the whole shape in frame."""
    time = np.arange(FRAMES)
    still = np.zeros(FRAMES)
    radius = rng.uniform(10.0, 14.0)
    dx = dy = still
    angle = still + rng.uniform(-0.08, 0.08)
    sizes = still + radius
    if scene.direction is not None:
        radius = rng.uniform(9.5, 11.5) if scene.motion == "fast" else rng.uniform(10.0, 13.0)
        sizes = still + radius
        speed = rng.uniform(1.90, 2.20) if scene.motion == "fast" else rng.uniform(0.55, 0.80)
        step = (time - (FRAMES - 1) / 2) * speed
        dx, dy = (step * unit for unit in DIRECTIONS[scene.direction])
    elif scene.motion in ("growing", "shrinking"):
        sizes = np.linspace(rng.uniform(6.0, 7.5), rng.uniform(18.0, 21.0), FRAMES)
        sizes = sizes if scene.motion == "growing" else sizes[::-1]
    elif scene.motion == "spinning":
        angle = angle + rng.choice((-1, 1)) * rng.uniform(0.16, 0.22) * time
    elif scene.motion == "bouncing":
        sizes = still + rng.uniform(9.0, 11.5)
        height = rng.uniform(22.0, 26.0)
        dy = height / 2 - height * np.abs(np.sin(2 * np.pi * time / (FRAMES - 1)))
    extent = reach(scene.shape) * sizes + 1
    low_x, high_x = (extent - dx).max(), (SIZE - extent - dx).min()
    low_y, high_y = (extent - dy).max(), (SIZE - extent - dy).min()
    # Movement along an axis is centered on it; across it the place is free within the middle of the frame.
    spread_x = 0.05 if np.ptp(dx) else 0.20
    spread_y = 0.05 if np.ptp(dy) else 0.20
    x = np.clip(SIZE * rng.uniform(0.5 - spread_x, 0.5 + spread_x), low_x, max(low_x, high_x))
    y = np.clip(SIZE * rng.uniform(0.5 - spread_y, 0.5 + spread_y), low_y, max(low_y, high_y))
    return Path(x + dx, y + dy, sizes, angle)


def background_rows(scene: Scene) -> np.ndarray:
    """Background color of every pixel row, (SIZE, 3)."""
    shade = 1 - 0.5 * np.linspace(0, 1, SIZE) if scene.gradient else np.ones(SIZE)
    return shade[:, None] * np.array(BACKGROUNDS[scene.background])


def render(scene: Scene, path: Path) -> np.ndarray:
    """The clip (FRAMES, SIZE, SIZE, 3) in uint8."""
    ground = background_rows(scene)[:, None]
    color = np.array(COLORS[scene.color])
    frames = []
    for x, y, radius, angle in zip(path.x, path.y, path.radius, path.angle, strict=True):
        alpha = coverage(scene.shape, x, y, radius, angle)[..., None]
        frames.append(ground * (1 - alpha) + color * alpha)
    return (np.stack(frames) * 255 + 0.5).astype(np.uint8)
