"""Paint a shot: textured backgrounds that can move, figures in front of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mini.world.captions import BACKGROUNDS, COLORS, TEXTURES, Background, Scene
from mini.world.paths import Shot
from mini.world.shapes import coverage

PERIOD = {"striped": 32, "checkered": 64, "dotted": 32}  # pixels after which a texture repeats
DOT = 10.0  # radius of a dot in pixels
DARK = 0.40  # mean above which a texture's second tone is darker, not lighter
SOFT = 1.5  # pixels over which one tone becomes the other


def tones(color: str) -> tuple[Tensor, Tensor]:
    """Return the two RGB colors of a textured background."""
    first = torch.tensor(BACKGROUNDS[color])
    return first, first * 0.6 if first.mean() > DARK else first + 0.18


def square_wave(position: Tensor, period: float) -> Tensor:
    """Return +1 and -1 alternating, half a period each, with soft edges."""
    to_edge = period / 4 - (position % period - period / 2).abs()  # negative in the outer halves of the period
    return (to_edge / (SOFT / 2)).clamp(-1, 1)


def texture(pattern: str, scroll: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of the second tone, (F, H, W) or less where it is the same for all, moved `scroll` (F,) pixels.

    Positive `scroll` moves the texture to the right.
    """
    height, width = size
    period = PERIOD[pattern]
    columns = torch.arange(width) + 0.5 - scroll[:, None, None]  # (F, 1, W)
    rows = torch.arange(height)[:, None] + 0.5  # (H, 1)
    if pattern == "dotted":
        across, down = columns % period - period / 2, rows % period - period / 2
        return (0.5 + (DOT - torch.hypot(across, down.expand(-1, width))) / SOFT).clamp(0, 1)
    wave = square_wave(columns, period)
    return (1 + (wave * square_wave(rows, period) if pattern == "checkered" else wave)) / 2


def paint_background(background: Background, scroll: Tensor, size: tuple[int, int]) -> Tensor:
    """Paint a background (F, H, W, 3) RGB, moved `scroll` (F,) pixels to the right."""
    shape = (len(scroll), *size, 3)
    first, second = tones(background.color)
    if background.pattern in TEXTURES:
        share = texture(background.pattern, scroll, size).expand(shape[:3])[..., None]
        return first + share * (second - first)
    fade = 0.5 if background.pattern == "gradient" else 0.0
    shade = 1 - fade * torch.linspace(0, 1, size[0])
    return (shade[:, None, None] * first).expand(shape)


def render(scene: Scene, shot: Shot) -> Tensor:
    """Paint the clip (F, H, W, 3) uint8; of figures that overlap, the later one is in front."""
    scroll = torch.as_tensor(shot.scroll, dtype=torch.float32)
    frames = paint_background(scene.background, scroll if scroll.any() else scroll[:1], shot.size)
    drawn = list(zip(scene.figures, shot.paths, strict=True))
    for figure, path in reversed(drawn) if scene.order == "behind" else drawn:
        along = torch.as_tensor(path.table(), dtype=torch.float32)
        alpha = coverage(figure.shape, *along, shot.size)[..., None]
        frames = torch.lerp(frames, torch.tensor(COLORS[figure.color]).expand_as(frames), alpha)
    return (frames.expand(len(scroll), -1, -1, -1) * 255 + 0.5).to(torch.uint8)
