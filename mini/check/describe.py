"""Measure what a clip shows from its pixels, without looking at any caption."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mini.check.backdrop import fit_backdrop, foreground_distance
from mini.check.blobs import Track, find_tracks
from mini.check.shape_match import angles, nearest_shape, normalized, overlaps
from mini.world.paths import FRAMES
from mini.world.shapes import SYMMETRY

MIN_SIDE = 48  # pixels; in smaller frames the figures leave too little background
END_FRAMES = 2  # frames at either end over which areas are averaged


@dataclass(frozen=True)
class SeenFigure:
    """A figure in the first FRAMES frames.

    Attributes:
        color: a key of COLORS, or None.
        shape: one of SHAPES, or None.
        dx: displacement to the right in pixels, by a straight line fitted to the path.
        dy: the same downwards.
        growth: last over first area.
        rotation: radians, clockwise; 0 for circles.
        height: vertical range in pixels.
        drop: how far it comes down again after its highest place, in pixels.
    """

    color: str | None
    shape: str | None
    dx: float
    dy: float
    growth: float
    rotation: float
    height: float
    drop: float


@dataclass(frozen=True)
class Seen:
    """A clip's contents.

    Attributes:
        background: a key of BACKGROUNDS, or None.
        pattern: one of PATTERNS.
        scroll: pixels that the background moves to the right in the first FRAMES frames.
        figures: up to three; empty if their number is not steady.
        keeps: whether every later whole chunk of FRAMES frames shows the same figures and background; None if
            there is none.
    """

    background: str | None
    pattern: str
    scroll: float
    figures: tuple[SeenFigure, ...]
    keeps: bool | None = None


def describe_clip(frames: np.ndarray) -> Seen:
    """Measure a clip.

    Args:
        frames: (F, H, W, 3) uint8 with F >= FRAMES and H, W >= MIN_SIDE.

    Raises:
        ValueError: `frames` has another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"a clip is (F, H, W, 3) in uint8, got {frames.shape} in {frames.dtype}")
    if len(frames) < FRAMES or min(frames.shape[1:3]) < MIN_SIDE:
        raise ValueError(
            f"a clip needs {FRAMES} frames of {MIN_SIDE} x {MIN_SIDE} pixels or more, got {frames.shape[:3]}"
        )
    chunks = [describe_chunk(frames[i : i + FRAMES]) for i in range(0, len(frames) - FRAMES + 1, FRAMES)]
    first, later = chunks[0], chunks[1:]
    return replace(first, keeps=all(contents(c) == contents(first) for c in later)) if later else first


def describe_chunk(frames: np.ndarray) -> Seen:
    """Measure FRAMES frames (FRAMES, H, W, 3) uint8."""
    clip = frames.astype(np.float32) / 255
    backdrop = fit_backdrop(clip)
    tracks = find_tracks(clip, backdrop.pictures, foreground_distance(clip, backdrop))
    scroll = change(np.arange(len(clip)), backdrop.scroll)
    return Seen(backdrop.color, backdrop.pattern, scroll, tuple(describe_figure(track) for track in tracks))


def change(times: np.ndarray, values: np.ndarray) -> float:
    """Return how much `values` (T,) change over a chunk, by a straight line fitted to them."""
    return float(np.polyfit(times, values, 1)[0] * (FRAMES - 1))


def describe_figure(track: Track) -> SeenFigure:
    """Measure one figure."""
    scores = overlaps(normalized(track.alpha, track.areas, track.centers))
    shape = nearest_shape(scores, track.areas)
    turns = shape is not None and shape != "circle"
    x, y = track.centers.T
    return SeenFigure(
        color=track.color,
        shape=shape,
        dx=change(track.times, x),
        dy=change(track.times, y),
        growth=float(track.areas[-END_FRAMES:].mean() / track.areas[:END_FRAMES].mean()),
        rotation=change(track.times, angles(scores[shape], SYMMETRY[shape])) if turns else 0.0,
        height=float(np.ptp(y)),
        drop=float(y[y.argmin() :].max() - y.min()),
    )


def contents(seen: Seen) -> tuple:
    """Return what has to stay the same in a longer clip."""
    figures = sorted((figure.color or "", figure.shape or "") for figure in seen.figures)
    return figures, seen.background, seen.pattern
