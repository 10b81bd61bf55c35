"""Measure what a clip shows from its pixels, without looking at any caption."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mini.check.backdrop import fit_backdrop, foreground_distance
from mini.check.blobs import Track, find_tracks
from mini.check.shape_match import angles, nearest_shape, normalized, overlaps, unit_area
from mini.world.captions import ROUND
from mini.world.paths import FRAMES, MIN_SIDE, SIZE
from mini.world.shapes import SYMMETRY

END_FRAMES = 2  # frames at either end over which areas are averaged


@dataclass(frozen=True)
class Pose:
    """A figure in one frame: number of the frame in its chunk, center and radius in pixels; 0 without a shape."""

    time: int
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class SeenFigure:
    """A figure in the first FRAMES frames, or in a picture; nothing moves in a picture.

    Attributes:
        color: a key of COLORS, or None.
        shape: one of SHAPES, or None.
        x: mean place of the center of mass, in pixels.
        y: the same downwards.
        radius: mean size in pixels by the area of the shape; 0 without a shape.
        dx: displacement to the right in pixels, by a straight line fitted to the path.
        dy: the same downwards.
        growth: last over first area.
        rotation: radians, clockwise, by a fitted line; 0 for round shapes.
        height: vertical range in pixels.
        drop: how far it comes down again after its highest place, in pixels.
        wander_x: how far the path leaves the fitted line to either side, in pixels: what goes and comes back has no
            displacement.
        wander_y: the same up and down.
        pulse: largest over smallest area.
        turn: range of the rotation in radians (`spread`).
        start: where it is first seen.
        end: where it is last seen.
    """

    color: str | None
    shape: str | None
    x: float
    y: float
    radius: float
    dx: float
    dy: float
    growth: float
    rotation: float
    height: float
    drop: float
    wander_x: float
    wander_y: float
    pulse: float
    turn: float
    start: Pose
    end: Pose


@dataclass(frozen=True)
class Seen:
    """A clip's contents.

    Attributes:
        background: a key of BACKGROUNDS, or None.
        pattern: one of PATTERNS.
        scroll: pixels that the background moves to the right in the first FRAMES frames.
        figures: up to four; empty if their number is not steady.
        front: color of the figure that is in front while two overlap, a key of COLORS; None if they never do.
        size: height and width of the frame in pixels.
        picture: there was a single frame.
        later: the later whole chunks of FRAMES frames.
    """

    background: str | None
    pattern: str
    scroll: float
    figures: tuple[SeenFigure, ...]
    front: str | None = None
    size: tuple[int, int] = SIZE
    picture: bool = False
    later: tuple[Seen, ...] = ()


def can_describe(frames: int, height: int, width: int) -> bool:
    """Whether a clip of so many frames, or a picture if it is one, is long and large enough to be measured."""
    return (frames == 1 or frames >= FRAMES) and min(height, width) >= MIN_SIDE


def describe_clip(frames: np.ndarray) -> Seen:
    """Measure a clip or a picture.

    Args:
        frames: (F, H, W, 3) uint8 with F >= FRAMES or F = 1, and H, W >= MIN_SIDE.

    Raises:
        ValueError: `frames` has another shape or dtype.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"a clip is (F, H, W, 3) in uint8, got {frames.shape} in {frames.dtype}")
    if not can_describe(*frames.shape[:3]):
        raise ValueError(
            f"a clip needs {FRAMES} frames, or one, of {MIN_SIDE} x {MIN_SIDE} pixels or more, got {frames.shape[:3]}"
        )
    if len(frames) == 1:
        return replace(describe_chunk(frames), picture=True)
    chunks = [frames[i : i + FRAMES] for i in range(0, len(frames) - FRAMES + 1, FRAMES)]
    first = describe_chunk(chunks[0])
    crossing = len(first.figures) if first.front else 0
    return replace(first, later=tuple(describe_chunk(chunk, crossing) for chunk in chunks[1:]))


def describe_chunk(frames: np.ndarray, crossing: int = 0) -> Seen:
    """Measure the frames (F, H, W, 3) uint8 of a chunk or a picture.

    Args:
        crossing: number of the figures if two of them have crossed before; 0 in a first chunk.
    """
    clip = frames.astype(np.float32) / 255
    backdrop = fit_backdrop(clip)
    tracks, front = find_tracks(clip, backdrop.pictures, foreground_distance(clip, backdrop), crossing)
    scroll = change(np.arange(len(clip)), backdrop.scroll)
    figures = tuple(describe_figure(track) for track in tracks)
    return Seen(backdrop.color, backdrop.pattern, scroll, figures, front, clip.shape[1:3])


def line(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the coefficients (2,) of a straight line fitted to `values` (T,), the slope first."""
    return np.polyfit(times, values, 1) if len(times) > 1 else np.array([0.0, values.mean()])


def change(times: np.ndarray, values: np.ndarray) -> float:
    """Return how much `values` (T,) change over a chunk, by a straight line fitted to them."""
    return float(line(times, values)[0] * (FRAMES - 1))


def wander(times: np.ndarray, values: np.ndarray) -> float:
    """Return how wide a strip around a fitted line `values` (T,) need."""
    return float(np.ptp(values - np.polyval(line(times, values), times)))


def spread(angles: np.ndarray) -> float:
    """Return the range of `angles` (T,) without the outermost on either side: what is covered in part is misread."""
    return float(np.ptp(np.sort(angles)[1:-1])) if len(angles) > 2 else 0.0


def describe_figure(track: Track) -> SeenFigure:
    """Measure one figure."""
    scores = overlaps(normalized(track.alpha, track.areas, track.centers))
    shape = nearest_shape(scores, track.areas)
    turns = shape is not None and shape not in ROUND
    angle = angles(scores[shape], SYMMETRY[shape]) if turns else np.zeros(len(track.times))
    x, y = track.centers.T

    def radius(area: float) -> float:
        return float(np.sqrt(area / unit_area(shape))) if shape else 0.0

    start, end = (Pose(int(track.times[i]), float(x[i]), float(y[i]), radius(track.areas[i])) for i in (0, -1))
    return SeenFigure(
        color=track.color,
        shape=shape,
        x=float(x.mean()),
        y=float(y.mean()),
        radius=radius(track.areas.mean()),
        dx=change(track.times, x),
        dy=change(track.times, y),
        growth=float(track.areas[-END_FRAMES:].mean() / track.areas[:END_FRAMES].mean()),
        rotation=change(track.times, angle),
        height=float(np.ptp(y)),
        drop=float(y[y.argmin() :].max() - y.min()),
        wander_x=wander(track.times, x),
        wander_y=wander(track.times, y),
        pulse=float(track.areas.max() / track.areas.min()),
        turn=spread(angle),
        start=start,
        end=end,
    )
