"""Anti-aliased shapes from signed distance functions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

STAR_POINTS = 5
STAR_INNER = 0.50  # inner over outer radius
RING_WIDTH = 0.5  # over the outer radius
CROSS = (0.38, 1.10)  # half width and half length of the arms
HEART_SIDE = 1.25  # of the turned square whose two upper edges carry half discs
HEART_LOW = 0.08  # how far the square's middle is below the heart's
# Degrees after which a shape looks the same again; circles and rings always do.
SYMMETRY = {"circle": 6, "square": 90, "triangle": 120, "star": 72, "ring": 6, "cross": 90, "heart": 360}


def _corners(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def polygon(shape: str) -> np.ndarray:
    """Return the corners (K, 2) of a unit-size shape around its middle, in drawing order; y points down.

    A heart's polygon is the turned square that its two half discs stand on.
    """
    if shape == "square":
        half = 0.87
        return np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
    if shape == "triangle":
        return _corners(-np.pi / 2 + np.arange(3) * 2 * np.pi / 3, 1.22)
    if shape == "cross":
        narrow, long = CROSS
        arm = np.array([(-narrow, -long), (narrow, -long), (narrow, -narrow)])
        turns = [np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))]) for a in np.arange(4) * np.pi / 2]
        return np.concatenate([arm @ turn for turn in turns])
    if shape == "heart":
        return _corners(np.arange(4) * np.pi / 2, HEART_SIDE / np.sqrt(2)) + (0, HEART_LOW)
    angles = -np.pi / 2 + np.arange(2 * STAR_POINTS) * np.pi / STAR_POINTS
    return _corners(angles, np.where(np.arange(2 * STAR_POINTS) % 2 == 0, 1.25, 1.25 * STAR_INNER))


def polygon_distance(x: Tensor, y: Tensor, corners: np.ndarray) -> Tensor:
    """Return the signed distance (negative inside) of points to the polygon `corners` (K, 2)."""
    squared = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        edge_x, edge_y = bx - ax, by - ay
        from_x, from_y = x - ax, y - ay
        along = ((from_x * edge_x + from_y * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
        squared = torch.minimum(squared, (from_x - along * edge_x) ** 2 + (from_y - along * edge_y) ** 2)
        if edge_y:
            inside ^= ((y < ay) != (y < by)) & (x < ax + from_y * (edge_x / edge_y))
    return torch.where(inside, -1.0, 1.0) * squared.sqrt()


def unit_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the signed distance of points to a shape of unit size."""
    if shape == "circle":
        return torch.hypot(x, y) - 1
    if shape == "ring":
        return (torch.hypot(x, y) - 1 + RING_WIDTH / 2).abs() - RING_WIDTH / 2
    distance = polygon_distance(x, y, polygon(shape))
    if shape == "heart":
        across = HEART_SIDE / np.sqrt(8)
        discs = torch.hypot(x.abs() - across, y - HEART_LOW + across) - HEART_SIDE / 2
        distance = torch.minimum(distance, discs)
    return distance


def coverage(shape: str, x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, size: tuple[int, int]) -> Tensor:
    """Return how much of each pixel of frames `size` (H, W) the shape covers, (F, H, W), 0 to 1.

    Args:
        x, y, radius, angle: (F,) place, size and turn in every frame.
    """
    height, width = size
    # Only a window around the shape is drawn, on a canvas with room for what lies outside of the frame.
    half = math.ceil(reach(shape) * float(radius.max())) + 2
    steps = torch.arange(-half, half + 1, device=x.device)
    columns = x.floor().long().clamp(-half, width + half)[:, None, None] + steps
    rows = y.floor().long().clamp(-half, height + half)[:, None, None] + steps[:, None]
    dx, dy = columns + 0.5 - x[:, None, None], rows + 0.5 - y[:, None, None]
    cos, sin, radius = (values[:, None, None] for values in (angle.cos(), angle.sin(), radius))
    distance = unit_distance(shape, (dx * cos + dy * sin) / radius, (dy * cos - dx * sin) / radius) * radius
    canvas = x.new_zeros(len(x), height + 4 * half + 1, width + 4 * half + 1)
    frames = torch.arange(len(x), device=x.device)[:, None, None]
    canvas[frames, rows + 2 * half, columns + 2 * half] = (0.5 - distance).clamp(0, 1)
    return canvas[:, 2 * half : 2 * half + height, 2 * half : 2 * half + width]


def reach(shape: str) -> float:
    """Return the largest distance of a point of the unit shape from its middle."""
    if shape in ("circle", "ring"):
        return 1.0
    if shape == "heart":
        across = HEART_SIDE / np.sqrt(8)
        return float(np.hypot(across, across - HEART_LOW) + HEART_SIDE / 2)
    return float(np.linalg.norm(polygon(shape), axis=1).max())
