"""The figures of a clip as connected blobs that are followed from frame to frame."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np

from mini.world.captions import COLORS
from mini.world.paths import CROSSING_RADII, CROSSING_SPEED

FOREGROUND = 0.20  # RGB distance to the background that makes a pixel foreground
MIN_BLOB = 48  # pixels; the smallest figures have three times as many
MAX_FIGURES = 4  # more than a caption can name, so that too many are noticed
MAX_LAPSE, MAX_LAPSES = 2, 3  # frames, in a row and in all, that may show another number of figures
MIN_GAP = 3  # frames between the first and the last that show neither of two figures on its own
MIN_APART = 4  # frames of a chunk that show both on their own; a crossing hides one of them for about ten
MEETING = sum(CROSSING_RADII) + 3 * CROSSING_SPEED  # pixels between two figures that are about to overlap
WINDOW = 2  # pixels around a figure's middle that show which one is in front
COLOR_PIXELS = 100  # pixels of way that count as much as an RGB distance of 1
MIN_SHARE = 0.85  # of a figure's frames that must show it in the same color
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
    """Return for each frame of `masks` (F, H, W) its parts (K, H, W) of at least MIN_BLOB pixels, the largest first.

    A seam of two pixels does not part them: where two figures overlap, their colors may mix to the background's.
    """
    found = []
    for labels in connected(shrink(grow(masks))) * masks:
        numbers, areas = np.unique(labels[labels > 0], return_counts=True)
        numbers = numbers[np.argsort(-areas, kind="stable")[: (areas >= MIN_BLOB).sum()]]
        found.append(labels[None] == numbers[:, None, None])
    return found


def median_colors(frame: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the median colors (K, 3) of `frame` (H, W, 3) in each of `masks` (K, H, W)."""
    return np.array([np.median(frame[mask], axis=0) for mask in masks]).reshape(-1, 3)


def closest(centers: np.ndarray) -> float:
    """Return the smallest distance between two of `centers` (K, 2)."""
    first, second = np.triu_indices(len(centers), 1)
    return float(np.linalg.norm(centers[first] - centers[second], axis=1).min())


def overlap_frames(parts: list[np.ndarray], crossing: int = 0) -> np.ndarray:
    """Return the frames (G,) in which two figures that meet and part again are one of `parts`; none if unclear.

    Args:
        crossing: number of the figures if two of them have crossed before: they may meet at any time then.
    """
    counts = np.array([len(p) for p in parts])
    number, none = crossing or counts[0], np.zeros(0, int)
    apart = counts == number
    gap = np.flatnonzero(~apart)
    if number < 2 or not len(gap) or apart.sum() < MIN_APART or (counts[gap] != number - 1).any():
        return none
    if not crossing and (len(gap) < MIN_GAP or np.ptp(gap) >= len(gap) or not apart[-1]):
        return none
    beside = np.flatnonzero(apart & np.convolve(~apart, np.ones(3), "same").astype(bool))
    return gap if all(closest(centers_of_mass(parts[time])) < MEETING for time in beside) else none


def is_steady(lapses: np.ndarray) -> bool:
    """Whether `lapses` (F,), the frames with a wrong number of figures, are few, apart, and at neither end."""
    longer = np.convolve(lapses, np.ones(MAX_LAPSE + 1), "valid") > MAX_LAPSE
    return not (lapses[0] or lapses[-1] or lapses.sum() > MAX_LAPSES or longer.any())


def follow(parts: list[np.ndarray], colors: list[np.ndarray], crossing: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Find out which parts are the same figure.

    Args:
        parts: (K, H, W) masks per frame, the largest first; K varies.
        colors: (K, 3) their colors.
        crossing: two figures are one part in some frames.

    Returns:
        Numbers of the frames (T,) that show every figure on its own, and for each of them the numbers (T, figures) of
        the figures' parts; both are empty if the number of figures is not steady.
    """
    counts = np.array([len(p) for p in parts])
    number = int(counts.max() if crossing else np.median(counts))
    times = np.flatnonzero(counts == number)
    if not 1 <= number <= MAX_FIGURES or not (crossing or is_steady(counts != number)):
        return np.zeros(0, int), np.zeros((0, 0), int)
    # Color counts, too: when two figures part again, each is about as near to where the other one was before.
    marks = [np.hstack([centers_of_mass(parts[time]), COLOR_PIXELS * colors[time]]) for time in times]
    orders = np.array(list(permutations(range(number))))
    chosen = [orders[0]]
    for before, now in pairwise(marks):
        ways = np.linalg.norm(now[orders] - before[chosen[-1]], axis=2).sum(axis=1)
        chosen.append(orders[ways.argmin()])
    return times, np.array(chosen)


def nearest_color(color: np.ndarray) -> str | None:
    """Return the name of the closest color, or None if even that is far."""
    gaps = {name: float(np.linalg.norm(color - np.array(rgb))) for name, rgb in COLORS.items()}
    name = min(gaps, key=gaps.get)
    return name if gaps[name] < COLOR_REACH else None


def steady_color(colors: np.ndarray) -> str | None:
    """Return the name of the color that most of `colors` (T, 3) are closest to, or None if it changes."""
    name, count = Counter(nearest_color(color) for color in colors).most_common(1)[0]
    return name if count >= MIN_SHARE * len(colors) else None


def find_tracks(
    clip: np.ndarray, pictures: np.ndarray, distance: np.ndarray, crossing: int = 0
) -> tuple[list[Track], str | None]:
    """Find the figures of a clip.

    Args:
        clip: (F, H, W, 3) float32 in [0, 1].
        pictures: (F, H, W, 3) its background.
        distance: (F, H, W) distance of each pixel from the background.
        crossing: number of the figures if two of them have crossed before; else 0.

    Returns:
        The figures, and the color of the one in front while two of them overlap; None if they never do.
    """
    far = distance > FOREGROUND
    # Shrinking and growing removes specks and the thin remains of texture edges; every part keeps a core.
    masks = grow(shrink(far)) & far
    parts = large_parts(masks)
    cores = [shrink(p) for p in parts]
    colors = list(map(median_colors, clip, cores))
    gap = overlap_frames(parts, crossing)
    times, chosen = follow(parts, colors, crossing=len(gap) > 0)
    frames, background, others = clip[times], pictures[times], masks[times]
    tracks = []
    for numbers in chosen.T:
        blobs, core, color = (
            np.stack([several[time][k] for time, k in zip(times, numbers, strict=True)])
            for several in (parts, cores, colors)
        )
        # A soft edge is a mixture of figure and background; how much of it is figure gives areas below a pixel.
        way = color[:, None, None] - background
        share = ((frames - background) * way).sum(-1) / np.maximum((way**2).sum(-1), 1e-6)
        near = grow(grow(blobs)) & ~grow(others & ~blobs)
        alpha = np.where(core, 1, np.clip(share, 0, 1) * near)
        tracks.append(Track(steady_color(color), times, alpha, alpha.sum((1, 2)), centers_of_mass(alpha)))
    return tracks, color_in_front(clip, tracks, gap) if tracks and len(gap) else None


def color_in_front(clip: np.ndarray, tracks: list[Track], gap: np.ndarray) -> str | None:
    """Return the color in the middle of the stillest figure in the middle of the frames `gap` (G,)."""
    still = min(tracks, key=lambda track: np.ptp(track.centers, axis=0).max())
    x, y = still.centers.mean(axis=0).round().astype(int).clip(WINDOW)
    window = clip[gap[len(gap) // 2], y - WINDOW : y + WINDOW, x - WINDOW : x + WINDOW]
    return nearest_color(np.median(window.reshape(-1, 3), axis=0))
