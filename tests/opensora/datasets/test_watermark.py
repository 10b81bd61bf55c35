"""The watermark: where it is, that it can be seen on any ground, and that it fits every frame."""

from __future__ import annotations

import numpy as np
import pytest

from opensora.datasets.watermark import add_watermark


def plain(shade: int, height: int = 144, width: int = 256, num_frames: int = 2) -> np.ndarray:
    return np.full((num_frames, height, width, 3), shade, np.uint8)


def changed(frames: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Where the first frame differs, (H, W)."""
    return (frames[0] != marked[0]).any(axis=-1)


@pytest.mark.parametrize("size", [(64, 64), (144, 256), (256, 144), (720, 1280)])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_it_is_small_and_at_the_lower_right(size, shade):
    frames = plain(shade, *size)
    rows, columns = np.nonzero(changed(frames, add_watermark(frames)))
    height, width = size
    assert rows.min() > 0.75 * height and columns.max() < width - 1 and rows.max() < height - 1
    assert columns.mean() > 0.5 * width
    assert 0.2 * min(size) < np.ptp(columns) < width


@pytest.mark.parametrize("shade", [0, 60, 128, 200, 255])
def test_it_stands_out_from_any_ground(shade):
    frames = plain(shade)
    difference = np.abs(add_watermark(frames).astype(int) - shade)
    assert difference.max() > 80  # gray levels; white letters, or their dark outline
    assert difference.max() < 240  # the video shows through


def test_all_frames_are_marked_alike_and_the_input_stays():
    frames = plain(100, num_frames=4)
    before = frames.copy()
    marked = add_watermark(frames)
    assert (frames == before).all()
    assert marked.dtype == np.uint8 and marked.shape == frames.shape
    assert all((frame == marked[0]).all() for frame in marked)


def test_letters_grow_with_the_frame():
    heights = []
    for size in ((144, 256), (720, 1280)):
        rows, _ = np.nonzero(changed(plain(0, *size), add_watermark(plain(0, *size))))
        heights.append(np.ptp(rows))
    assert 3 < heights[1] / heights[0] < 6


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (8, 8), (3, 200), (200, 3), (32, 32)])
def test_it_fits_tiny_frames(size):
    frames = plain(0, *size)
    marked = add_watermark(frames)
    assert marked.shape == frames.shape
    assert changed(frames, marked).any()


def test_a_long_text_is_made_smaller_until_it_fits():
    frames = plain(0)
    rows, columns = np.nonzero(changed(frames, add_watermark(frames, "made by a model " * 20)))
    assert columns.min() >= 1 and columns.max() <= 254


def test_other_alphabets_have_letters_of_their_own():
    marks = [add_watermark(plain(0, num_frames=1), text) for text in ("äöü", "ÄÖÜ", "жяю", "αβγ")]
    assert all((a != b).any() for i, a in enumerate(marks) for b in marks[:i])


def test_line_breaks_count_as_blanks():
    assert (add_watermark(plain(0), "AI\n generated ") == add_watermark(plain(0), "AI generated")).all()


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(text):
    with pytest.raises(ValueError, match="the watermark's text is empty"):
        add_watermark(plain(0), text)


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="expected uint8 frames"):
        add_watermark(np.zeros((2, 8, 8, 3)))
