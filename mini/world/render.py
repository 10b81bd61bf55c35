"""Paint a shot: textured backgrounds that can move, figures in front of them."""

from __future__ import annotations

import numpy as np

from mini.world.captions import BACKGROUNDS, COLORS, TEXTURES, Background, Scene
from mini.world.paths import Shot
from mini.world.shapes import coverage

PERIOD = {"striped": 16, "checkered": 32}  # pixels after which a texture repeats
DARK = 0.40  # mean above which a texture's second tone is darker, not lighter
SOFT = 1.5  # pixels over which one tone becomes the other


def tones(color: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the two RGB colors of a textured background."""
    first = np.array(BACKGROUNDS[color])
    return first, first * 0.6 if first.mean() > DARK else first + 0.18


def square_wave(position: np.ndarray, period: float) -> np.ndarray:
    """Return +1 and -1 alternating, half a period each, with soft edges."""
    phase = position % period
    to_edge = period / 4 - np.abs(phase - period / 2)  # negative in the outer halves of the period
    return np.clip(to_edge / (SOFT / 2), -1, 1)


def paint_background(background: Background, scroll: float, size: tuple[int, int]) -> np.ndarray:
    """Paint a background (H, W, 3) RGB, moved `scroll` pixels to the right."""
    height, width = size
    first = np.array(BACKGROUNDS[background.color])
    if background.pattern not in TEXTURES:
        shade = 1 - 0.5 * np.linspace(0, 1, height) if background.pattern == "gradient" else np.ones(height)
        return np.broadcast_to(shade[:, None, None] * first, (height, width, 3))
    period = PERIOD[background.pattern]
    wave = square_wave(np.arange(width) + 0.5 - scroll, period)[None]
    if background.pattern == "checkered":
        wave = wave * square_wave(np.arange(height) + 0.5, period)[:, None]
    blend = np.broadcast_to((1 + wave) / 2, size)[..., None]
    first, second = tones(background.color)
    return first + blend * (second - first)


def render(scene: Scene, shot: Shot) -> np.ndarray:
    """Paint the clip (F, H, W, 3) uint8."""
    moving = bool(np.ptp(shot.scroll))
    ground = paint_background(scene.background, shot.offset, shot.size)
    frames = []
    for i, scroll in enumerate(shot.scroll):
        if moving:
            ground = paint_background(scene.background, shot.offset + scroll, shot.size)
        frame = ground
        for figure, path in zip(scene.figures, shot.paths, strict=True):
            alpha = coverage(figure.shape, path.x[i], path.y[i], path.radius[i], path.angle[i], shot.size)[..., None]
            frame = frame * (1 - alpha) + np.array(COLORS[figure.color]) * alpha
        frames.append(frame)
    return (np.stack(frames) * 255 + 0.5).astype(np.uint8)
