from __future__ import annotations

import numpy as np
import pytest

from bench.compare.metrics import flicker, temporal_change


def levels(*values: int) -> np.ndarray:
    """A clip of flat frames."""
    return np.stack([np.full((4, 6, 3), value, np.uint8) for value in values])


def test_change_is_the_mean_step_up_or_down():
    assert temporal_change(levels(10, 30, 0)) == 25  # (20 + 30) / 2
    assert temporal_change(levels(255, 0)) == 255  # no wrapping of unsigned numbers
    half = levels(10, 10)
    half[1, :, :3] = 14
    assert temporal_change(half) == 2


def test_flicker_is_what_the_sample_changes_more():
    assert flicker(levels(10, 14, 10), levels(50, 51, 52)) == pytest.approx(3)
    assert flicker(levels(50, 51, 52), levels(10, 14, 10)) == pytest.approx(-3)
    assert flicker(levels(10, 14, 10), levels(10, 14, 10)) == 0
