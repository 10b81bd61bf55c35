"""Find which shape a blob has and how far it is turned, by comparing it with drawn shapes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from mini.check.blobs import centers_of_mass
from mini.world.captions import SHAPES
from mini.world.shapes import SYMMETRY, coverage

TEMPLATE = 32  # pixels
TEMPLATE_AREA = TEMPLATE**2 / 4
CONTRAST = 2.0  # by which edges are sharpened, as a blurred outline is no wrong one
STEP = 6  # degrees between templates
MIN_OVERLAP = 0.8  # below which a blob has none of the shapes
MIN_SHARE = 0.75  # of the frames, weighted by area, that must show the same shape


@lru_cache(maxsize=1)
def templates() -> dict[str, np.ndarray]:
    """Draw every shape in steps of STEP degrees up to its symmetry, (K, TEMPLATE, TEMPLATE) each.

    All have the area TEMPLATE_AREA and their center of mass in the middle.
    """
    size, drawn = (TEMPLATE, TEMPLATE), {}
    for shape in SHAPES:
        angle = torch.deg2rad(torch.arange(0.0, SYMMETRY[shape], STEP))
        middle = torch.full_like(angle, TEMPLATE / 2)
        radius = torch.full_like(angle, (TEMPLATE_AREA / unit_area(shape)) ** 0.5)
        off_center = coverage(shape, middle, middle, radius, angle, size).numpy()
        x, y = 2 * middle - torch.as_tensor(centers_of_mass(off_center).T, dtype=torch.float32)
        drawn[shape] = coverage(shape, x, y, radius, angle, size).numpy()
    return drawn


@lru_cache(maxsize=len(SHAPES))
def unit_area(shape: str) -> float:
    """Return the area of a shape of radius 1."""
    middle, radius = torch.tensor([64.0]), torch.tensor([48.0])
    return float(coverage(shape, middle, middle, radius, torch.zeros(1), (128, 128)).sum() / radius**2)


def normalized(alpha: np.ndarray, areas: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Center blobs (F, H, W), scale them to the templates' area, (F, TEMPLATE, TEMPLATE), and sharpen their edges."""
    height, width = alpha.shape[1:]
    padded = np.pad(alpha, [(0, 0), (1, 1), (1, 1)]).astype(np.float32)  # nothing outside of the frame
    scale = np.sqrt(areas / TEMPLATE_AREA)[:, None]
    offsets = (np.arange(TEMPLATE) + 0.5 - TEMPLATE / 2) * scale  # (F, TEMPLATE)
    x = np.clip(centers[:, :1] + offsets + 0.5, 0, width + 0.999)
    y = np.clip(centers[:, 1:] + offsets + 0.5, 0, height + 0.999)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, low_share = (x - left)[:, None], (y - top)[:, :, None]
    frame = np.arange(len(alpha))[:, None, None]
    left, top = left[:, None], top[:, :, None]
    upper = padded[frame, top, left] * (1 - right_share) + padded[frame, top, left + 1] * right_share
    lower = padded[frame, top + 1, left] * (1 - right_share) + padded[frame, top + 1, left + 1] * right_share
    scaled = upper * (1 - low_share) + lower * low_share
    return np.clip(0.5 + CONTRAST * (scaled - 0.5), 0, 1)


def overlaps(blobs: np.ndarray) -> dict[str, np.ndarray]:
    """Return the IoU (F, K) of normalized blobs (F, TEMPLATE, TEMPLATE) with every template of each shape."""
    flat = blobs.reshape(len(blobs), 1, -1)
    result = {}
    for shape, drawn in templates().items():
        shared = np.minimum(flat, drawn.reshape(1, len(drawn), -1)).sum(-1)
        result[shape] = shared / (flat.sum(-1) + drawn.sum((1, 2)) - shared)
    return result


def nearest_shape(scores: dict[str, np.ndarray], areas: np.ndarray) -> str | None:
    """Return the shape whose best rotation overlaps most, weighted by area (F,); None if it changes or none is near."""
    best = np.stack([scores[shape].max(axis=1) for shape in SHAPES])  # (shapes, F)
    mean = np.average(best, axis=1, weights=areas)
    winner = int(mean.argmax())
    share = np.average(best.argmax(axis=0) == winner, weights=areas)
    return SHAPES[winner] if mean[winner] > MIN_OVERLAP and share > MIN_SHARE else None


def angles(score: np.ndarray, symmetry: float) -> np.ndarray:
    """Return the rotation (F,) in radians, clockwise, by `score` (F, K) of templates over `symmetry` degrees.

    A parabola through the best template and its neighbors interpolates between templates; a turn of more than half the
    symmetry between two frames is taken for the shorter way round.
    """
    count = score.shape[1]
    frame, best = np.arange(len(score)), score.argmax(axis=1)
    before, at, after = (score[frame, (best + k) % count] for k in (-1, 0, 1))
    bend = np.maximum(2 * at - before - after, 1e-9)
    degrees = (best + 0.5 * (after - before) / bend) * symmetry / count
    return np.deg2rad(np.unwrap(degrees, period=symmetry))
