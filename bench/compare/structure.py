"""Structural similarity of frames, at one scale and at five.

The variant: the three colors apart, then averaged; Gaussian window of 11 pixels with sigma 1.5, without padding;
biased variances; K = 0.01 and 0.03; data range 255. This is scikit-image's with gaussian_weights=True,
use_sample_covariance=False.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), and Multi-scale
Structural Similarity for Image Quality Assessment (2003).
"""

from __future__ import annotations

import numpy as np

from bench.compare.batches import frame_batches

WINDOW, SMALLEST_WINDOW = 11, 3
HALVINGS = 16  # the last of the five scales has a sixteenth of the side
PEAK = 255.0


def ms_ssim_window(side: int) -> int | None:
    """The largest odd window, up to 11 pixels, that fits the smallest scale of frames whose shorter side is ``side``.

    11 from 161 pixels on, 3 at 33 to 64; None for smaller frames.
    """
    fitting = min(WINDOW, (side - 1) // HALVINGS + 1)
    window = fitting if fitting % 2 else fitting - 1
    return window if window >= SMALLEST_WINDOW else None


def ssim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Mean SSIM over the frames of two clips (F, H, W, 3) uint8 with sides of 11 pixels or more."""
    from pytorch_msssim import ssim as of_batch

    return _mean_over_frames(of_batch, frames, reference, WINDOW)


def ms_ssim(frames: np.ndarray, reference: np.ndarray, window: int) -> float:
    """Mean MS-SSIM over the frames of two clips (F, H, W, 3) uint8; ``window`` is that of ``ms_ssim_window``."""
    from pytorch_msssim import ms_ssim as of_batch

    return _mean_over_frames(of_batch, frames, reference, window)


def _mean_over_frames(of_batch, frames: np.ndarray, reference: np.ndarray, window: int) -> float:
    import torch

    with torch.inference_mode():
        values = [
            of_batch(batch, target, data_range=PEAK, size_average=False, win_size=window)
            for batch, target in frame_batches(frames, reference)
        ]
        return float(torch.cat(values).double().mean())
