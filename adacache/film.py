"""A few frames of a video side by side."""

import numpy as np


def spread(frames: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` evenly spaced frames of a video (F, H, W, 3), the first and the last among them."""
    count = min(count, len(frames))
    return frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]


def side_by_side(frames: np.ndarray, gap: int = 0) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 as one image (H, W', 3), with `gap` white pixels between them."""
    white = np.full((frames.shape[1], gap, 3), 255, np.uint8)
    pieces = [piece for frame in frames for piece in (white, frame)]
    return np.concatenate(pieces[1:], axis=1)
