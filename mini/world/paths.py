"""Where things are in every frame of a scene: physics simple enough to continue a clip from any of its frames.

Moving figures turn back at the edge of the frame, growing ones at their largest and smallest size, and the camera where
the figure would leave the frame. In the first `FRAMES` frames nothing turns back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mini.world.captions import DIRECTIONS, Figure, Scene
from mini.world.shapes import reach

FRAMES = 17  # of the shortest clip, and of one chunk of the autoencoder
SIZE = (64, 64)  # height and width in pixels

SLOW = (0.55, 0.80)  # pixels per frame
FAST = (1.90, 2.20)
PAN = (1.00, 1.30)
DRIFT = (0.50, 0.90)
SPIN = (0.10, 0.13)  # radians per frame; above half a star's symmetry per latent frame it would seem to turn back
LANE = 4.0  # pixels that a figure of a pair may be off the middle of its half


@dataclass(frozen=True)
class Bounce:
    """How a figure bounces: frames from floor to floor, and the range of heights in pixels."""

    period: int
    height: tuple[float, float]


GENTLE = Bounce(FRAMES - 1, (15.0, 18.0))
WILD = Bounce((FRAMES - 1) // 2, (22.0, 26.0))


@dataclass(frozen=True)
class Path:
    """One figure's center, size and turn; every array is (F,), pixels and radians (clockwise)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class Shot:
    """A scene made concrete.

    Attributes:
        paths: one per figure.
        scroll: (F,) pixels that the background has moved to the right.
        offset: pixels by which its texture is shifted at the start.
        size: height and width in pixels.
    """

    paths: tuple[Path, ...]
    scroll: np.ndarray
    offset: float
    size: tuple[int, int]

    def part(self, start: int, stop: int) -> Shot:
        """Return the frames from `start` up to `stop`."""
        cut = slice(start, stop)
        paths = tuple(Path(p.x[cut], p.y[cut], p.radius[cut], p.angle[cut]) for p in self.paths)
        return Shot(paths, self.scroll[cut], self.offset, self.size)


def fold(position: np.ndarray, low: float, high: float) -> np.ndarray:
    """Reflect a free movement at both ends of [low, high]."""
    span = max(high - low, 1e-6)
    return low + span - np.abs((position - low) % (2 * span) - span)


def random_shot(
    scene: Scene,
    rng: np.random.Generator,
    frames: int = FRAMES,
    size: tuple[int, int] = SIZE,
    bounce: Bounce = GENTLE,
) -> Shot:
    """Draw a shot that fits the scene's words and keeps every figure in the frame.

    The random values do not depend on `frames`: a longer shot starts with the shorter one.
    """
    time = np.arange(frames)
    offset = rng.uniform(0, 64)
    still = np.zeros(frames)
    if scene.kind == "pair":
        return Shot(_pair(scene, rng, time, size), still, offset, size)
    path = _single(scene.main, rng, time, size, bounce)
    if scene.pan:
        # The camera turns, so the whole world moves the other way.
        speed = rng.uniform(*PAN) * (-1 if scene.pan == "right" else 1)
        moved = _travel(path.x[0], speed, _extent(scene.main, path), size[1], time, rng)
        return Shot((Path(moved, path.y, path.radius, path.angle),), moved - moved[0], offset, size)
    scroll = -rng.uniform(*DRIFT) * time if scene.background.drifting else still
    return Shot((path,), scroll, offset, size)


def _extent(figure: Figure, path: Path) -> float:
    """Return the largest distance of a figure's edge from its center, with a margin for its soft edge."""
    return float(reach(figure.shape) * path.radius.max() + 1)


def _travel(
    center: float, speed: float, extent: float, side: float, time: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw positions (F,) along an axis of length `side`: the first chunk is near the middle and does not turn."""
    distance = speed * (FRAMES - 1)
    low, high = extent, side - extent
    first = center - distance / 2 + side * rng.uniform(-0.05, 0.05)
    first = np.clip(first, low - min(distance, 0), max(low - min(distance, 0), high - max(distance, 0)))
    return fold(first + speed * time, low, max(high, first + max(distance, 0)))


def _single(figure: Figure, rng: np.random.Generator, time: np.ndarray, size: tuple[int, int], bounce: Bounce) -> Path:
    """Draw the path of the only figure."""
    height, width = size
    still = np.zeros(len(time))
    radius = still + rng.uniform(10.0, 14.0)
    angle = still + rng.uniform(-0.08, 0.08)
    if figure.motion == "slowly":
        radius = still + rng.uniform(10.0, 13.0)
    elif figure.motion == "fast":
        radius = still + rng.uniform(9.0, 10.5)
    elif figure.motion in ("growing", "shrinking"):
        small, large = rng.uniform(6.0, 7.5), rng.uniform(18.0, 21.0)
        grown = (time if figure.motion == "growing" else time + FRAMES - 1) * (large - small) / (FRAMES - 1)
        radius = fold(small + grown, small, large)
    elif figure.motion == "spinning":
        angle = angle + rng.uniform(*SPIN) * time
    elif figure.motion == "bouncing":
        radius = still + rng.uniform(9.0, 11.5)
    bounds = Path(still, still, radius, angle)
    extent = _extent(figure, bounds)
    middle_x, middle_y = width / 2, height / 2
    x = still + _anywhere(middle_x, 0.20, extent, width, rng)
    y = still + _anywhere(middle_y, 0.20, extent, height, rng)
    if figure.direction is not None:
        speed = rng.uniform(*(FAST if figure.motion == "fast" else SLOW))
        step_x, step_y = DIRECTIONS[figure.direction]
        if step_x:
            x = _travel(middle_x, speed * step_x, extent, width, time, rng)
        else:
            y = _travel(middle_y, speed * step_y, extent, height, time, rng)
    elif figure.motion == "bouncing":
        jump = rng.uniform(*bounce.height)
        floor = middle_y + jump / 2 + height * rng.uniform(-0.05, 0.05)
        y = floor - jump * np.abs(np.sin(np.pi * time / bounce.period))
    return Path(x, y, radius, angle)


def _anywhere(middle: float, spread: float, extent: float, side: float, rng: np.random.Generator) -> float:
    """Draw a place near the middle of an axis at which the whole figure is in the frame."""
    place = middle + side * rng.uniform(-spread, spread)
    return float(np.clip(place, extent, max(extent, side - extent)))


def _pair(scene: Scene, rng: np.random.Generator, time: np.ndarray, size: tuple[int, int]) -> tuple[Path, ...]:
    """Draw a still figure in one half of the frame and a moving one in the other, so that they never meet."""
    height, width = size
    mover = scene.main
    step_x, step_y = DIRECTIONS[mover.direction]
    still = np.zeros(len(time))
    side, across = (width, height) if step_x else (height, width)
    halves = (0.25, 0.75) if rng.random() < 0.5 else (0.75, 0.25)
    paths = []
    for figure, half in zip(scene.figures, halves, strict=True):
        body = Path(still, still, still + rng.uniform(8.5, 10.0), still + rng.uniform(-0.08, 0.08))
        extent = _extent(figure, body)
        lane = still + across * half + np.clip(rng.uniform(-LANE, LANE), extent - across / 4, across / 4 - extent)
        if figure is mover:
            speed = rng.uniform(*(FAST if figure.motion == "fast" else SLOW)) * (step_x + step_y)
            along = _travel(side / 2, speed, extent, side, time, rng)
        else:
            along = still + _anywhere(side / 2, 0.20, extent, side, rng)
        x, y = (along, lane) if step_x else (lane, along)
        paths.append(Path(x, y, body.radius, body.angle))
    return tuple(paths)
