"""Temporal flicker: how much a clip changes from frame to frame."""

from __future__ import annotations

import numpy as np


def temporal_change(frames: np.ndarray) -> float:
    """Mean absolute difference of consecutive frames in 0..255, of a clip (F, H, W, 3) uint8 with F >= 2.

    VBench's temporal flickering score is (255 - this) / 255. It counts wanted motion, too, so it is only meaningful
    for clips at rest, or as a difference between two clips of the same content.

    Source: https://github.com/Vchitect/VBench, vbench/temporal_flickering.py.
    """
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return float(np.mean([np.abs(np.subtract(later, earlier, dtype=np.int16)).mean() for later, earlier in pairs]))


def flicker(frames: np.ndarray, reference: np.ndarray) -> float:
    """Temporal change of a clip minus that of its reference: 0 if equal, above 0 for a clip that flickers more."""
    return temporal_change(frames) - temporal_change(reference)
