"""How far two clips are apart."""

from __future__ import annotations

import numpy as np

from adacache.calibration.target import EQUAL_DB

PEAK = 255.0


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 clips of one shape; equal ones count as 80 dB."""
    error = np.mean((frames.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(PEAK**2 / max(error, PEAK**2 / 10 ** (EQUAL_DB / 10))))
