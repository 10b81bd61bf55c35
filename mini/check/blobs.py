"""The figures of a clip as connected blobs that are followed from frame to frame."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from mini.world.captions import COLORS

FOREGROUND = 0.22  # RGB distance to the background that makes a pixel foreground
MIN_BLOB = 24  # pixels; the smallest figures have three times as many
MAX_FIGURES = 3  # more than a caption can name, so that too many are noticed
MIN_SHARE = 0.75  # of the frames that must show the same number of figures, in the same color
COLOR_REACH = 0.35  # RGB distance above which a figure has none of the named colors


@dataclass(frozen=True)
class Track:
    """One figure through the frames that show it.

    Attributes:
        color: a key of COLORS, or None where no color is near.
        times: (T,) numbers of the frames.
        alpha: (T, H, W) share of each pixel that the figure covers, 0 to 1.
        areas: (T,) pixels.
        centers: (T, 2) centers of mass, x and y in pixels.
    """

    color: str | None
    times: np.ndarray
    alpha: np.ndarray
    areas: np.ndarray
    centers: np.ndarray


def grow(masks: np.ndarray) -> np.ndarray:
    """Add to `masks` (F, H, W) the eight neighbors of each pixel."""
    height, width = masks.shape[1:]
    tall = np.pad(masks, [(0, 0), (1, 1), (0, 0)])
    tall = tall[:, :height] | tall[:, 1 : height + 1] | tall[:, 2:]
    wide = np.pad(tall, [(0, 0), (0, 0), (1, 1)])
    return wide[..., :width] | wide[..., 1 : width + 1] | wide[..., 2:]


def shrink(masks: np.ndarray) -> np.ndarray:
    """Keep the pixels of `masks` (F, H, W) whose neighbors are all in the mask."""
    return ~grow(~masks)


def spread(labels: np.ndarray) -> np.ndarray:
    """Give every run of positive `labels` (F, H, W) along the last axis its largest label."""
    flat = np.pad(labels, [(0, 0), (0, 0), (0, 1)]).ravel()  # a zero at the end of every line parts the lines
    edges = np.flatnonzero(np.diff(flat > 0, prepend=False))
    starts, stops = edges[::2], edges[1::2]
    if len(starts):
        flat[flat > 0] = np.repeat(np.maximum.reduceat(flat, starts), stops - starts)
    return flat.reshape(*labels.shape[:2], -1)[..., :-1]


def connected(masks: np.ndarray) -> np.ndarray:
    """Label (F, H, W) the connected parts of `masks`: one positive number each, 0 outside."""
    labels = np.where(masks, np.arange(1, masks.size + 1).reshape(masks.shape), 0)
    while True:
        larger = spread(spread(labels).swapaxes(1, 2)).swapaxes(1, 2)
        if np.array_equal(larger, labels):
            return labels
        labels = larger


def centers_of_mass(weights: np.ndarray) -> np.ndarray:
    """Centers (F, 2) of `weights` (F, H, W), x and y in pixels; every frame needs some weight."""
    height, width = weights.shape[1:]
    x = weights.sum(1) @ (np.arange(width) + 0.5)
    y = weights.sum(2) @ (np.arange(height) + 0.5)
    return np.stack([x, y], axis=1) / weights.sum((1, 2))[:, None]


def large_parts(masks: np.ndarray) -> list[np.ndarray]:
    """Return for each frame of `masks` (F, H, W) its parts (K, H, W) of at least MIN_BLOB pixels, the largest first."""
    found = []
    for labels in connected(masks):
        numbers, areas = np.unique(labels[labels > 0], return_counts=True)
        numbers = numbers[np.argsort(-areas, kind="stable")[: (areas >= MIN_BLOB).sum()]]
        found.append(labels[None] == numbers[:, None, None])
    return found


def follow(parts: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find out which parts are the same figure.

    Args:
        parts: (K, H, W) masks per frame, the largest first; K varies.

    Returns:
        (times (T,), masks (T, H, W)) per figure; none if the number of figures is not steady.
    """
    counts = np.array([len(p) for p in parts])
    number = int(np.median(counts))
    times = np.flatnonzero(counts == number)
    if not 1 <= number <= MAX_FIGURES or len(times) < MIN_SHARE * len(parts):
        return []
    rows = [parts[times[0]]]
    places = centers_of_mass(rows[0])
    orders = [list(order) for order in permutations(range(number))]
    for time in times[1:]:
        now = centers_of_mass(parts[time])
        order = orders[np.argmin([np.linalg.norm(now[order] - places, axis=1).sum() for order in orders])]
        rows.append(parts[time][order])
        places = now[order]
    return [(times, np.stack([row[k] for row in rows])) for k in range(number)]


def nearest_color(color: np.ndarray) -> str | None:
    """Return the name of the closest color, or None if even that is far."""
    gaps = {name: float(np.linalg.norm(color - np.array(rgb))) for name, rgb in COLORS.items()}
    name = min(gaps, key=gaps.get)
    return name if gaps[name] < COLOR_REACH else None


def steady_color(colors: np.ndarray) -> str | None:
    """Return the name of the color that most of `colors` (T, 3) are closest to, or None if it changes."""
    name, count = Counter(nearest_color(color) for color in colors).most_common(1)[0]
    return name if count >= MIN_SHARE * len(colors) else None


def find_tracks(clip: np.ndarray, pictures: np.ndarray, distance: np.ndarray) -> list[Track]:
    """Find the figures of a clip.

    Args:
        clip: (F, H, W, 3) float32 in [0, 1].
        pictures: (F, H, W, 3) its background.
        distance: (F, H, W) distance of each pixel from the background.
    """
    far = distance > FOREGROUND
    # Shrinking and growing removes specks and the thin remains of texture edges; every part keeps a core.
    masks = grow(shrink(far)) & far
    tracks = []
    for times, blobs in follow(large_parts(masks)):
        frames, background = clip[times], pictures[times]
        core = shrink(blobs)
        colors = np.stack([np.median(frame[inside], axis=0) for frame, inside in zip(frames, core, strict=True)])
        # A soft edge is a mixture of figure and background; how much of it is figure gives areas below a pixel.
        way = colors[:, None, None] - background
        share = ((frames - background) * way).sum(-1) / np.maximum((way**2).sum(-1), 1e-6)
        near = grow(grow(blobs)) & ~grow(masks[times] & ~blobs)
        alpha = np.where(core, 1, np.clip(share, 0, 1) * near)
        tracks.append(Track(steady_color(colors), times, alpha, alpha.sum((1, 2)), centers_of_mass(alpha)))
    return tracks
