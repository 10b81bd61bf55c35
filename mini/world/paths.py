"""Where things are in every frame of a scene: physics simple enough to continue a clip from any of its frames.

Most captions do not say where a figure is. If it could be anywhere, noise would decide between neighboring places late,
and differently in every part of the frame; so figures start on a grid of places, three along a side of 128 pixels, and
move by whole latents from one latent frame to the next. Moving figures and the camera turn back at the outer places,
growing figures at their largest and smallest size. In the first `FRAMES` frames
nothing turns back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mini.world.captions import DIRECTIONS, PLACES, Figure, Scene

FRAMES = 17  # of the shortest clip, and of one chunk of the autoencoder
SIZE = (128, 128)  # height and width in pixels

STEP = 32  # pixels between neighboring places, and from the outer ones to the edge
MIN_SIDE = 4 * STEP  # so that a fast figure has room for its first chunk
SPEED = {"slowly": 2, "fast": 4}  # pixels per frame
SCROLL = 2  # pixels per frame of a drifting background and of a panning camera
SPIN = np.pi / 24  # radians per frame; above half a star's symmetry per latent frame it would seem to turn back
# Pixels, by the word of size. The autoencoder rounds outlines by about a pixel, a latent is 8 pixels wide: of a radius
# of 10, crosses came back as squares.
RADIUS = {"small": 13, "": 18, "large": 25}
GROUP_RADII = {2: 18, 3: 12}  # of figures in lanes of their own, by their number
GROWTH = (10, 25)  # smallest and largest radius
JUMP = 32  # pixels that a bouncing figure rises
CROSSING_RADII = (16, 12)  # of the still and of the moving figure
CROSSING_SPEED = 6  # pixels per frame
CROSSING_EDGE = 16  # pixels from the edge at which a crossing figure turns back


@dataclass(frozen=True)
class Path:
    """One figure's center, size and turn; every array is (F,), pixels and radians (clockwise)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray

    def table(self) -> np.ndarray:
        """Return all four (4, F) in the order of the fields."""
        return np.stack([self.x, self.y, self.radius, self.angle])


@dataclass(frozen=True)
class Shot:
    """A scene made concrete.

    Attributes:
        paths: one per figure.
        scroll: (F,) pixels that the background has moved to the right.
        size: height and width in pixels.
    """

    paths: tuple[Path, ...]
    scroll: np.ndarray
    size: tuple[int, int]

    def part(self, start: int, stop: int) -> Shot:
        """Return the frames from `start` up to `stop`."""
        paths = tuple(Path(*path.table()[:, start:stop]) for path in self.paths)
        return Shot(paths, self.scroll[start:stop], self.size)


def fold(position: np.ndarray, low: float, high: float) -> np.ndarray:
    """Reflect a free movement at both ends of [low, high]."""
    span = high - low
    return low + span - np.abs((position - low) % (2 * span) - span)


def places(side: int) -> np.ndarray:
    """Return the places (K,) along a side of the frame, in pixels."""
    return np.arange(STEP, side - STEP + 1, STEP)


def random_shot(scene: Scene, rng: np.random.Generator, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> Shot:
    """Draw a shot that fits the scene's words and keeps every figure in the frame.

    The random values do not depend on `frames`: a longer shot starts with the shorter one.

    Raises:
        ValueError: a side of the frame is below MIN_SIDE.
    """
    if min(size) < MIN_SIDE:
        raise ValueError(f"the world needs frames of {MIN_SIDE} x {MIN_SIDE} pixels or more, got {size[0]} x {size[1]}")
    time = np.arange(frames)
    still = np.zeros(frames)
    if scene.order:
        return Shot(_crossing(scene, time, size), still, size)
    if len(scene.figures) > 1:
        return Shot(_group(scene, rng, time, size), still, size)
    path = _single(scene.main, rng, time, size)
    if scene.pan:
        # The camera turns, so the whole world moves the other way.
        x = _travel(size[1], SCROLL * (-1 if scene.pan == "right" else 1), time, rng)
        return Shot((Path(x, path.y, path.radius, path.angle),), x - x[0], size)
    return Shot((path,), -SCROLL * time if scene.background.drifting else still, size)


def _pick(choices: np.ndarray, rng: np.random.Generator) -> float:
    return float(choices[int(rng.integers(len(choices)))])


def _travel(side: int, speed: float, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw positions (F,) along an axis of length `side` that do not turn back in the first chunk."""
    ends = places(side)
    last = ends + speed * (FRAMES - 1)
    first = _pick(ends[(last >= ends[0]) & (last <= ends[-1])], rng)
    return fold(first + speed * time, ends[0], ends[-1])


def _single(figure: Figure, rng: np.random.Generator, time: np.ndarray, size: tuple[int, int]) -> Path:
    """Draw the path of the only figure."""
    columns, rows = places(size[1]), places(size[0])
    side_x, side_y = PLACES.get(figure.place, (None, None))
    still = np.zeros(len(time))
    x = still + (_pick(columns, rng) if side_x is None else columns[[0, len(columns) // 2, -1][side_x + 1]])
    y = still + (_pick(rows, rng) if side_y is None else rows[[0, len(rows) // 2, -1][side_y + 1]])
    radius, angle = still + RADIUS[figure.size], still
    if figure.direction is not None:
        step_x, step_y = DIRECTIONS[figure.direction]
        if step_x:
            x = _travel(size[1], SPEED[figure.motion] * step_x, time, rng)
        else:
            y = _travel(size[0], SPEED[figure.motion] * step_y, time, rng)
    elif figure.motion in ("growing", "shrinking"):
        small, large = GROWTH
        grown = (time if figure.motion == "growing" else time + FRAMES - 1) * (large - small) / (FRAMES - 1)
        radius = fold(small + grown, small, large)
    elif figure.motion == "spinning":
        angle = SPIN * time
    elif figure.motion == "bouncing":
        y = _pick(rows[1:], rng) - JUMP * np.abs(np.sin(np.pi * time / (FRAMES - 1)))
    return Path(x, y, radius, angle)


def _group(scene: Scene, rng: np.random.Generator, time: np.ndarray, size: tuple[int, int]) -> tuple[Path, ...]:
    """Draw still figures and a moving one in lanes along its way, in the caption's order, so that they never meet."""
    mover = scene.main
    step_x, step_y = DIRECTIONS[mover.direction]
    still = np.zeros(len(time))
    side, across = (size[1], size[0]) if step_x else size
    lanes = places(across)[np.linspace(0, len(places(across)) - 1, len(scene.figures)).round().astype(int)]
    radius, paths = still + GROUP_RADII[len(scene.figures)], []
    for figure, lane in zip(scene.figures, lanes, strict=True):
        if figure is mover:
            along = _travel(side, SPEED[figure.motion] * (step_x + step_y), time, rng)
        else:
            along = still + _pick(places(side), rng)
        x, y = (along, still + lane) if step_x else (still + lane, along)
        paths.append(Path(x, y, radius, still))
    return tuple(paths)


def _crossing(scene: Scene, time: np.ndarray, size: tuple[int, int]) -> tuple[Path, ...]:
    """Place a still figure in the middle and lead the moving one across it; both are in the same place halfway."""
    step_x, step_y = DIRECTIONS[scene.main.direction]
    still = np.zeros(len(time))
    x, y = still + size[1] / 2, still + size[0] / 2
    side = size[1] if step_x else size[0]
    way = CROSSING_SPEED * (time - (FRAMES - 1) / 2) * (step_x + step_y)
    along = fold(side / 2 + way, CROSSING_EDGE, side - CROSSING_EDGE)
    large, small = CROSSING_RADII
    return Path(x, y, still + large, still), Path(along if step_x else x, y if step_x else along, still + small, still)
