"""Memory of a piece of work, where the machine tells it."""

from __future__ import annotations

import pytest
import torch

from bench.sampler import Stopwatch


def test_the_peak_is_that_since_the_reset():
    watch = Stopwatch(torch.device("cpu"))
    if not watch.reset_peak():
        pytest.skip("this machine does not reset the peak of a process")
    before = watch.peak_bytes()
    torch.ones(30_000_000)  # 120 MB
    during = watch.peak_bytes()
    assert during > before + 100e6
    watch.reset_peak()
    assert watch.peak_bytes() < during - 100e6


def test_the_clock_goes_on():
    watch = Stopwatch(torch.device("cpu"))
    assert watch.now() <= watch.now()
