"""A calibration of 10 steps whose figures can be checked in the head."""

import pytest

from adacache.calibration.calibration import Calibration, Point
from adacache.options import BridgeConfig


@pytest.fixture
def calibration() -> Calibration:
    """Times 1000, 900, ..., 100; 20, 30 and 40 dB measured with 4, 6 and 8 computed steps; reuse costs a tenth."""
    return Calibration(
        conditions={"model": "0123", "image_size": [64, 96], "cfg_scale": 5.0},
        timesteps=tuple(1000.0 - 100 * step for step in range(10)),
        bridge=BridgeConfig("fitted", weight=0.5),
        points=(
            Point((0, 1, 5, 8), 20.0, 1.5, 15.0),
            Point((0, 1, 2, 5, 8)),
            Point((0, 1, 2, 4, 6, 8), 30.0, 1.0, 22.0),
            Point((0, 1, 2, 3, 4, 6, 8, 9), 40.0, 0.5, 31.0),
        ),
        reused_cost=0.1,
        details={"held_out_clips": 3},
    )
