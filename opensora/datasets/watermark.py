"""Write a line of text over videos that says where they come from."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from opensora.datasets.contact_sheet import sans_font
from opensora.datasets.video_io import checked_frames

DEFAULT_TEXT = "AI generated"

_SIZE = 1 / 24  # font size as a share of the frame's shorter side
_SMALLEST = 9  # pixels; smaller letters run together
_MARGIN = 1 / 48  # to the frame's edge, as a share of its shorter side
_OPACITY = 0.8
_OUTLINE_OPACITY = 0.7
_OUTLINE = 1 / 14  # of the font's size


def add_watermark(frames: np.ndarray, text: str = DEFAULT_TEXT) -> np.ndarray:
    """Return a copy of frames (T, H, W, 3) uint8 with a `text` at the lower right.

    White letters with a dark outline can be read on any background, and both let the video show through. They grow
    with the frame; a text that is too large for it is scaled down to fit.

    Args:
        text: a single line, in DejaVu Sans, which has no Chinese, Japanese or Korean letters.

    Raises:
        ValueError: frames have another shape or dtype, or the text is empty.
    """
    array = checked_frames(frames).copy()
    line = " ".join(text.split())
    if not line:
        raise ValueError("the watermark's text is empty: give it a word, or leave the watermark out")
    height, width = array.shape[1:3]
    margin = max(1, round(min(height, width) * _MARGIN)) if min(height, width) > 2 else 0
    color, opacity = _render(line, max(_SMALLEST, round(min(height, width) * _SIZE)), (width, height), margin)
    rows, columns = opacity.shape
    top, left = height - margin - rows, width - margin - columns
    region = array[:, top : top + rows, left : left + columns]  # (T, rows, columns, 3)
    # Frame by frame: floats of a long video's region would be large.
    for frame in region:
        frame[:] = np.rint(frame + (color - frame) * opacity[..., None])
    return array


def _render(text: str, size: int, frame: tuple[int, int], margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the gray value (rows, columns, 1) and the opacity (rows, columns) from 0 to 1 of the text's pixels.

    Args:
        frame: (width, height) into which the text has to fit with a `margin`.
    """
    font, stroke = sans_font(size), max(1, round(size * _OUTLINE))
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    canvas = (int(np.ceil(right - left)), int(np.ceil(bottom - top)))
    masks = []
    for stroke_width in (0, stroke):
        mask = Image.new("L", canvas)
        draw = ImageDraw.Draw(mask)
        draw.text((-left, -top), text, fill=255, font=font, stroke_width=stroke_width)
        masks.append(mask)
    scale = min(1.0, *((side - 2 * margin) / of for side, of in zip(frame, canvas, strict=True)))
    if scale < 1:
        smaller = tuple(max(1, int(side * scale)) for side in canvas)
        masks = [mask.resize(smaller, Image.Resampling.BOX) for mask in masks]
    letters, around = (np.asarray(mask, np.float32) / 255 for mask in masks)
    letters = letters * _OPACITY
    outline = (1 - letters) * around * _OUTLINE_OPACITY
    opacity = letters + outline
    color = 255 * letters / np.maximum(opacity, 1e-6)
    return color[..., None], opacity
