from __future__ import annotations

import numpy as np
import pytest

from adacache.calibration.quality import psnr, reused_cost, standard_error
from adacache.trace import StepRecord, Trace


def test_psnr_of_known_errors():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == pytest.approx(80)
    assert psnr(black + 255, black) == pytest.approx(0)
    assert psnr(black + 1, black) == pytest.approx(48.13, abs=0.01)


def test_standard_error_and_cost_by_hand():
    assert standard_error([30.0, 34.0, 38.0]) == pytest.approx(4 / 3**0.5)
    assert standard_error([30.0]) == 0
    records = [StepRecord(0, 1000, True, milliseconds=10.0), StepRecord(1, 500, False, milliseconds=1.0)]
    records += [StepRecord(2, 250, False, milliseconds=2.0), StepRecord(3, 100, False, milliseconds=9.0)]
    assert reused_cost([Trace(4, records)]) == pytest.approx(0.2)  # the median reused step
