"""Does a clip of the mini model show what its caption says? Decided from pixels by fixed rules, nothing learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opensora.mini.captions import BACKGROUNDS, COLORS, SHAPES, Scene, parse_caption
from opensora.mini.shapes import FRAMES, SIZE, background_rows, coverage

EDGE = 6  # columns at both sides from which a row's background color is taken
FOREGROUND_DISTANCE = 0.22  # RGB distance to the row's background that makes a pixel foreground
MIN_BLOB = 12  # pixels a frame's blob needs to count
MIN_FRAMES = 9  # frames with a blob a clip needs
MIN_CORE = 40  # eroded pixels needed to read the color from the inside of the shape
STILL_BELOW, SLOW_BELOW = 4.0, 21.0  # displacement over the clip in pixels
AREA_RATIO = 2.0  # last over first frames, to call a shape growing
BOUNCE_RANGE = 12.0  # vertical range in pixels of a bouncing shape
TEMPLATE = 32
SHAPE_FRAMES = 5
SYMMETRY = {"circle": 6, "square": 90, "triangle": 120, "star": 72}  # degrees after which a shape repeats


@dataclass(frozen=True)
class CaptionCheck:
    """Which parts of the caption a clip shows."""

    found: bool
    color: bool = False
    background: bool = False
    motion: bool = False
    shape: bool = False

    @property
    def all(self) -> bool:
        """Whether everything is right."""
        return self.found and self.color and self.background and self.motion and self.shape


def check_clip(frames: np.ndarray, caption: str) -> CaptionCheck:
    """Compare a clip with its caption.

    Args:
        frames: (FRAMES, SIZE, SIZE, 3) uint8.

    Raises:
        ValueError: another shape of clip, or a caption outside the grammar.
    """
    if frames.shape != (FRAMES, SIZE, SIZE, 3):
        raise ValueError(f"the check is made for clips of {(FRAMES, SIZE, SIZE, 3)}, got {frames.shape}")
    scene = parse_caption(caption)
    clip = frames.astype(np.float32) / 255
    sides = np.concatenate([clip[:, :, :EDGE], clip[:, :, -EDGE:]], axis=2)  # (F, H, 2 * EDGE, 3)
    rows = np.median(sides.transpose(1, 0, 2, 3).reshape(SIZE, -1, 3), axis=1)  # (H, 3)
    distance = np.linalg.norm(clip - rows[:, None], axis=-1)
    blobs = np.stack([densest_blob(mask) for mask in distance > FOREGROUND_DISTANCE])
    usable = blobs.sum((1, 2)) >= MIN_BLOB
    if usable.sum() < MIN_FRAMES:
        return CaptionCheck(found=False)
    return CaptionCheck(
        found=True,
        color=nearest(shape_color(clip[usable], blobs[usable]), COLORS) == scene.color,
        background=scene.background in ("", nearest_background(rows, scene.gradient)),
        motion=bool(shows_motion(blobs, usable, scene)),
        shape=nearest_shape(blobs[usable]) == scene.shape,
    )


def grow(mask: np.ndarray) -> np.ndarray:
    """``mask`` and its eight neighbors."""
    padded = np.pad(mask, 1)
    size_y, size_x = mask.shape
    shifted = [padded[y : y + size_y, x : x + size_x] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(shifted)


def densest_blob(mask: np.ndarray) -> np.ndarray:
    """The connected part of ``mask`` around the pixel with the fullest 9 x 9 neighborhood."""
    if not mask.any():
        return mask
    sums = np.pad(mask, 5).astype(np.int32).cumsum(0).cumsum(1)
    density = sums[9:, 9:] - sums[:-9, 9:] - sums[9:, :-9] + sums[:-9, :-9]
    density = np.where(mask, density[: mask.shape[0], : mask.shape[1]], -1)
    blob = np.zeros_like(mask)
    blob[np.unravel_index(density.argmax(), mask.shape)] = True
    while (larger := grow(blob) & mask).sum() > blob.sum():
        blob = larger
    return blob


def shape_color(clip: np.ndarray, blobs: np.ndarray) -> np.ndarray:
    """Median color inside the shape, away from its soft edge where it is large enough."""
    core = np.stack([blob & ~grow(~blob) for blob in blobs])
    return np.median(clip[core if core.sum() >= MIN_CORE else blobs], axis=0)


def nearest(color: np.ndarray, names: dict[str, tuple[float, float, float]]) -> str:
    """Name of the closest color."""
    return min(names, key=lambda name: np.linalg.norm(color - np.array(names[name])))


def nearest_background(rows: np.ndarray, gradient: bool) -> str:
    """Name of the background closest to the row colors (SIZE, 3)."""

    def distance(name: str) -> float:
        scene = Scene("red", "circle", "still", None, name, gradient)
        return float(np.abs(rows - background_rows(scene)).mean())

    return min(BACKGROUNDS, key=distance)


def centroids(blobs: np.ndarray) -> np.ndarray:
    """Centers of mass (F, 2), x and y in pixels."""
    grid = np.arange(SIZE) + 0.5
    area = blobs.sum((1, 2))
    return np.stack([(blobs.sum(1) @ grid) / area, (blobs.sum(2) @ grid) / area], axis=1)


def shows_motion(blobs: np.ndarray, usable: np.ndarray, scene: Scene) -> bool:
    """Kind, speed class and direction of the motion; spinning is told from still by the eye only."""
    times = np.flatnonzero(usable)
    blobs = blobs[usable]
    places = centroids(blobs)
    dx, dy = np.polyfit(times, places, 1)[0] * (FRAMES - 1)
    moved = float(np.hypot(dx, dy))
    areas = blobs.sum((1, 2))
    ratio = areas[-3:].mean() / areas[:3].mean()
    if scene.motion == "growing":
        return ratio > AREA_RATIO
    if scene.motion == "shrinking":
        return ratio < 1 / AREA_RATIO
    if scene.motion == "bouncing":
        return moved < 10 and np.ptp(places[:, 1]) > BOUNCE_RANGE
    if scene.motion in ("still", "spinning"):
        return moved < STILL_BELOW
    speed = "still" if moved < STILL_BELOW else "slowly" if moved < SLOW_BELOW else "fast"
    return speed == scene.motion and main_direction(dx, dy) == scene.direction


def main_direction(dx: float, dy: float) -> str | None:
    """Direction of the larger component, or None for a diagonal."""
    if min(abs(dx), abs(dy)) >= 0.5 * max(abs(dx), abs(dy)):
        return None
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def template(shape: str, degrees: float) -> np.ndarray:
    """Mask (TEMPLATE, TEMPLATE) of a shape of a fixed area."""
    middle = TEMPLATE / 2
    unit = coverage(shape, middle, middle, 8.0, 0.0, TEMPLATE).sum()
    radius = 8.0 * np.sqrt(TEMPLATE**2 / 4 / unit)
    return coverage(shape, middle, middle, radius, np.deg2rad(degrees), TEMPLATE) > 0.5


def templates() -> dict[str, np.ndarray]:
    """Every shape in steps of six degrees, (K, TEMPLATE, TEMPLATE) each."""
    return {shape: np.stack([template(shape, d) for d in range(0, SYMMETRY[shape], 6)]) for shape in SHAPES}


def normalized_mask(blob: np.ndarray) -> np.ndarray:
    """``blob`` moved to its centroid and scaled to the area of the templates, by nearest sampling."""
    (x, y), area = centroids(blob[None])[0], blob.sum()
    scale = np.sqrt(area / (TEMPLATE**2 / 4))
    offsets = (np.arange(TEMPLATE) + 0.5 - TEMPLATE / 2) * scale
    columns = np.floor(x + offsets).astype(int)
    rows = np.floor(y + offsets).astype(int)
    inside = ((rows >= 0) & (rows < SIZE))[:, None] & ((columns >= 0) & (columns < SIZE))[None]
    return blob[rows.clip(0, SIZE - 1)][:, columns.clip(0, SIZE - 1)] & inside


def nearest_shape(blobs: np.ndarray) -> str:
    """The shape whose best rotation overlaps most, averaged over a few frames."""
    chosen = blobs[np.linspace(0, len(blobs) - 1, SHAPE_FRAMES).round().astype(int)]
    library = templates()
    scores = {shape: 0.0 for shape in SHAPES}
    for blob in chosen:
        mask = normalized_mask(blob)
        for shape, masks in library.items():
            overlap = (mask & masks).sum((1, 2)) / (mask | masks).sum((1, 2))
            scores[shape] += overlap.max()
    return max(scores, key=scores.get)
