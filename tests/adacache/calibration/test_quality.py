from __future__ import annotations

import numpy as np
import pytest

from adacache.calibration.quality import psnr


def test_psnr_of_known_errors():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == pytest.approx(80)
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 1, black) == pytest.approx(48.13, abs=0.01)
