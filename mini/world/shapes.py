"""Anti-aliased shapes from signed distance functions."""

from __future__ import annotations

import numpy as np

STAR_POINTS = 5
STAR_INNER = 0.50  # inner over outer radius
# Degrees after which a shape looks the same again; a circle always does.
SYMMETRY = {"circle": 6, "square": 90, "triangle": 120, "star": 72}


def polygon(shape: str) -> np.ndarray:
    """Return the corners (K, 2) of a unit-size shape around its centroid, in drawing order; y points down."""
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
    """Return the signed distance (negative inside) of `points` (..., 2) to the polygon `corners` (K, 2)."""
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


def coverage(shape: str, x: float, y: float, radius: float, angle: float, size: tuple[int, int]) -> np.ndarray:
    """Return how much of each pixel of a frame `size` (H, W) the shape covers, 0 to 1."""
    height, width = size
    points = np.stack(np.meshgrid(np.arange(width) + 0.5 - x, np.arange(height) + 0.5 - y), axis=-1)  # (H, W, 2)
    if shape == "circle":
        distance = np.hypot(points[..., 0], points[..., 1]) - radius
    else:
        turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        distance = polygon_distance(points, polygon(shape) @ turn * radius)
    return np.clip(0.5 - distance, 0, 1)


def reach(shape: str) -> float:
    """Return the largest distance of a point of the unit shape from its center."""
    return 1.0 if shape == "circle" else float(np.linalg.norm(polygon(shape), axis=1).max())
