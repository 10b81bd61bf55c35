"""What lies behind the figures of a clip: color, pattern and movement, fitted to the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from mini.world.captions import BACKGROUNDS, PATTERNS, TEXTURES, Background
from mini.world.render import PERIOD, paint_background

FIT_FRAMES = 3  # frames by which color and pattern are chosen
ROW_STEP, COLUMN_STEP = 7, 5  # these rows and columns are enough; no period is a multiple, so every part is met
CHOICE_STEP = 2  # pixels between the phases by which color and pattern are chosen
PHASE_STEP = 1  # pixels between the phases that are tried in every frame
CUT_OFF = 0.3  # RGB distance above which a pixel counts as covered, and the same whatever its color
TINT = 0.06  # how far each RGB channel of a background may be off as a whole
UNFIT = 0.20  # mean distance in any of the frames above which not even the best candidate looks like the clip


@dataclass(frozen=True)
class Backdrop:
    """The background of a clip.

    Attributes:
        color: a key of BACKGROUNDS, or None if no candidate fits.
        pattern: one of PATTERNS.
        scroll: (F,) pixels that the texture has moved to the right since the first frame; zeros without texture.
        pictures: (F, H, W, 3) float32, the fitted background of every frame.
    """

    color: str | None
    pattern: str
    scroll: np.ndarray
    pictures: np.ndarray


def paint_phases(background: Background, step: int, size: tuple[int, int]) -> np.ndarray:
    """Paint the background (K, H, W, 3) float32, moved by 0, `step`, 2 `step` ... pixels; K is 1 without texture."""
    return paint_background(background, torch.arange(0, PERIOD.get(background.pattern, 1), step), size).numpy()


def thinned(pictures: np.ndarray) -> np.ndarray:
    """Return the pixels of `pictures` (K, H, W, 3) that are compared, (K, rows, columns, 3)."""
    return pictures[:, ::ROW_STEP, ::COLUMN_STEP]


@lru_cache(maxsize=4)
def candidates(size: tuple[int, int]) -> dict[tuple[str, str], np.ndarray]:
    """Return by color and pattern every background in steps of CHOICE_STEP, as far as compared."""
    # Black has no gradient: it would not be visible.
    names = [(c, p) for c in BACKGROUNDS for p in PATTERNS if (c, p) != ("black", "gradient")]
    return {name: thinned(paint_phases(Background(*name), CHOICE_STEP, size)).copy() for name in names}


def tint(gap: np.ndarray) -> np.ndarray:
    """Return the color (..., 1, 1, 3) by which pictures are off as a whole, given differences `gap` (..., H, W, 3)."""
    middle = np.median(gap.reshape(*gap.shape[:-3], -1, 3), axis=-2)
    return np.clip(middle, -TINT, TINT)[..., None, None, :]


def misfit(frames: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return the mean cut-off distance (F, K) of `frames` (F, H, W, 3) and `pictures` (K, H, W, 3), without a tint."""
    gap = frames[:, None] - pictures
    gap -= tint(gap)
    distance = np.sqrt(np.einsum("fkhwc,fkhwc->fkhw", gap, gap))
    return np.minimum(distance, CUT_OFF).mean((2, 3))


def fit_backdrop(clip: np.ndarray) -> Backdrop:
    """Choose color and pattern by a few frames, then follow the texture through all of them.

    Args:
        clip: (F, H, W, 3) float32 in [0, 1].
    """
    size = clip.shape[1:3]
    few = thinned(clip[np.unique(np.linspace(0, len(clip) - 1, FIT_FRAMES).round().astype(int))])
    costs = {name: misfit(few, pictures).min(axis=1) for name, pictures in candidates(size).items()}
    color, pattern = min(costs, key=lambda name: costs[name].mean())
    pictures = paint_phases(Background(color, pattern), PHASE_STEP, size)
    best = np.concatenate([misfit(thinned(f[None]), thinned(pictures)).argmin(axis=1) for f in clip])
    position = best * PHASE_STEP
    if pattern in TEXTURES:
        position = np.unwrap(position, period=PERIOD[pattern])
    fits = costs[color, pattern].max() < UNFIT
    painted = pictures[best]
    return Backdrop(color if fits else None, pattern, position - position[0], painted + tint(clip - painted))


def foreground_distance(clip: np.ndarray, backdrop: Backdrop) -> np.ndarray:
    """Return the RGB distance (F, H, W) to the background, shifted by a pixel in any direction if that is closer.

    The slack keeps the edges of a texture out of the foreground if they are softer than painted.
    """
    pictures, (height, width) = backdrop.pictures, clip.shape[1:3]
    around = (0, 1, 2) if backdrop.pattern in TEXTURES else (1,)
    padded = np.pad(pictures, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
    squares = np.full(clip.shape[:3], np.inf, np.float32)
    for down in around:
        for right in around:
            gap = clip - padded[:, down : down + height, right : right + width]
            squares = np.minimum(squares, np.einsum("fhwc,fhwc->fhw", gap, gap))
    return np.sqrt(squares)
