import time

import pytest
import torch

from adacache.controller import StepClock


def test_intervals_are_the_milliseconds_between_marks(monkeypatch):
    moments = iter([1.0, 1.25, 1.5, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    clock = StepClock(torch.device("cpu"))
    for _ in range(4):
        clock.mark()
    assert clock.intervals() == [250, 250, 2500]


def test_one_mark_makes_no_interval():
    clock = StepClock(torch.device("cpu"))
    clock.mark()
    assert clock.intervals() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_intervals_are_measured_on_the_device():
    clock = StepClock(torch.device("cuda"))
    clock.mark()
    torch.cuda._sleep(10_000_000)
    clock.mark()
    assert clock.intervals()[0] > 1
