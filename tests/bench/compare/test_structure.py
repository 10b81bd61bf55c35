"""SSIM against the formula written out, MS-SSIM against SSIM's parts at five scales."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare.metrics import ms_ssim, ms_ssim_window, ssim

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def noisy_pair(num_frames: int, height: int, width: int, noise: float = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (num_frames, height // 4, width // 4, 3)).repeat(4, 1).repeat(4, 2)
    deviations = noise + 20 * np.arange(num_frames)
    errors = rng.normal(0, deviations[:, None, None, None], reference.shape)
    return (reference + errors).clip(0, 255).astype(np.uint8), reference.astype(np.uint8)


def maps(x: np.ndarray, y: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast-structure part at every place of two gray pictures (H, W) where the window fits."""
    weights = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2

    def blurred(picture: np.ndarray) -> np.ndarray:
        places = np.lib.stride_tricks.sliding_window_view(picture, (window, window))
        return np.einsum("hwij,ij->hw", places, weights)

    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    structure = (2 * cov + C2) / (vx + vy + C2)
    return (2 * mx * my + C1) / (mx**2 + my**2 + C1) * structure, structure


def halved(picture: np.ndarray) -> np.ndarray:
    return (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2]) / 4


def test_ssim_is_the_formula_averaged_over_colors_and_frames():
    frames, reference = noisy_pair(3, 20, 28)
    expected = [
        maps(frames[i, ..., c].astype(float), reference[i, ..., c].astype(float), 11)[0].mean()
        for i in range(3)
        for c in range(3)
    ]
    assert max(expected) - min(expected) > 0.1
    assert ssim(frames, reference) == pytest.approx(np.mean(expected), abs=1e-5)


def test_ssim_of_flat_clips_is_known():
    # Without any contrast the first factor is left: (2 * 100 * 150 + C1) / (100^2 + 150^2 + C1).
    frames, reference = np.full((2, 16, 16, 3), 100, np.uint8), np.full((2, 16, 16, 3), 150, np.uint8)
    assert ssim(frames, reference) == pytest.approx((30000 + C1) / (32500 + C1), abs=1e-4)
    assert ssim(frames, frames) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("side", "window"), [(720, 11), (161, 11), (160, 9), (128, 7), (65, 5), (64, 3), (33, 3), (32, None), (8, None)]
)
def test_the_window_is_the_largest_that_the_smallest_scale_has_room_for(side, window):
    assert ms_ssim_window(side) == window


def test_every_window_is_one_that_the_library_takes():
    for side in (33, 65, 97, 129):
        frames = np.zeros((1, side, side + 3, 3), np.uint8)
        assert ms_ssim(frames, frames, ms_ssim_window(side)) == pytest.approx(1)


def test_ms_ssim_is_the_product_over_the_scales():
    frames, reference = noisy_pair(1, 48, 64, noise=60)
    of_colors = []
    for color in range(3):
        x, y = frames[0, ..., color].astype(float), reference[0, ..., color].astype(float)
        value = 1.0
        for scale, weight in enumerate(WEIGHTS):
            both, structure = maps(x, y, 3)
            value *= max((both if scale == 4 else structure).mean(), 0) ** weight
            x, y = halved(x), halved(y)
        of_colors.append(value)
    assert 0.3 < np.mean(of_colors) < 0.99
    assert ms_ssim(frames, reference, 3) == pytest.approx(np.mean(of_colors), abs=1e-5)
