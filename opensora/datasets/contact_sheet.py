"""Draw many clips in one picture: strips of frames with a line of text each, in a grid, under headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from adacache.atomic import atomic_path
from adacache.trace_plot import drawable, side_by_side, spread

INK, FAINT = "#1f2937", "#6b7280"
PADDING = 2  # pixels around the text of a strip
NOTE_GAP = 10  # pixels between a text and its note


@dataclass(frozen=True)
class Strip:
    """An image (H, W, 3) uint8 under a `text` in `color`, followed by a fainter `note`."""

    image: np.ndarray
    text: str
    color: str = INK
    note: str = ""


def film(frames: np.ndarray, count: int, box: tuple[int, int] | None = None, gap: int = 0) -> np.ndarray:
    """Return up to `count` frames of a clip (F, H, W, 3) uint8, from the first to the last, side by side in one image.

    Args:
        box: (width, height) in pixels that every frame is scaled to fit, up or down; None keeps its size.
        gap: white pixels between frames.
    """
    chosen = spread(frames, count)
    return side_by_side(chosen if box is None else scaled_into(chosen, box), gap)


def scaled_into(frames: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Scale frames (F, H, W, 3) uint8 to fit a `box` of (width, height) pixels, up or down, with their aspect ratio."""
    height, width = frames.shape[1:3]
    scale = min(box[0] / width, box[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])


def grid(
    strips: Sequence[Strip], per_row: int = 1, text_lines: int = 1, font_size: int = 10, heading: str = ""
) -> Image.Image:
    """Draw strips in rows of `per_row`, each under at most `text_lines` lines, and a `heading` of at most two on top.

    All cells are as large as the largest strip needs; text that does not fit is left out.
    """
    font, bold, line = sans_font(font_size), sans_font(font_size, bold=True), round(1.3 * font_size)
    width = max(strip.image.shape[1] for strip in strips) + 3 * PADDING
    text_height = text_lines * line + PADDING
    height = max(strip.image.shape[0] for strip in strips) + text_height + font_size // 2
    titles = _wrap(heading, bold, width * per_row - 2 * PADDING)[:2]
    top = len(titles) * line + font_size // 2 if titles else 0
    sheet = Image.new("RGB", (width * per_row, top + height * -(-len(strips) // per_row)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, text in enumerate(titles):
        draw.text((PADDING, number * line), text, fill=INK, font=bold)
    for number, strip in enumerate(strips):
        x, y = (number % per_row) * width, top + (number // per_row) * height
        for indent, row, text, color in _label(strip, font, width - 2 * PADDING):
            if row < text_lines:
                draw.text((x + PADDING + indent, y + row * line), text, fill=color, font=font)
        sheet.paste(Image.fromarray(strip.image), (x + PADDING, y + text_height))
    return sheet


def save_sheet(grids: Sequence[Image.Image], path: Path, margin: int = 0) -> None:
    """Write grids below each other as a PNG, with a white `margin` around each; it appears complete or not at all."""
    width = max(grid.width for grid in grids) + 2 * margin
    sheet = Image.new("RGB", (width, sum(grid.height + margin for grid in grids) + margin), "white")
    y = margin
    for part in grids:
        sheet.paste(part, (margin, y))
        y += part.height + margin
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _label(strip: Strip, font: ImageFont.FreeTypeFont, width: float) -> list[tuple[float, int, str, str]]:
    """Return (indent in pixels, line, text, color) of a strip's text and its note, beside the text's end if it fits."""
    lines = _wrap(strip.text, font, width)
    pieces = [(0.0, row, text, strip.color) for row, text in enumerate(lines)]
    beside = font.getlength(lines[-1]) + NOTE_GAP if lines else 0.0
    if beside + font.getlength(strip.note) <= width:
        return [*pieces, (beside, max(0, len(lines) - 1), strip.note, FAINT)]
    return pieces + [(0.0, len(lines) + row, text, FAINT) for row, text in enumerate(_wrap(strip.note, font, width))]


def sans_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which comes with matplotlib and has more alphabets than Pillow's own font."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(find_spec("matplotlib").origin).parent / "mpl-data/fonts/ttf" / name, size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break `text` into lines of at most `width` pixels; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in drawable(text).split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
