"""The prediction for several GPUs: what it is made of."""

from __future__ import annotations

import pytest

from adacache.trace import StepRecord, Trace
from bench.timing.parallel import calls_of_steps
from bench.timing.scaling import (
    Machine,
    Published,
    StepWork,
    VideoWork,
    count_table,
    plot,
    prediction_table,
    predictions,
    published_rate,
    steps_of_speedup,
)
from opensora.acceleration.launch import MeshShape

ALONE = VideoWork(MeshShape(), StepWork(1000, {}), StepWork(10, {}), 500, 0)
SHARED = VideoWork(
    MeshShape(1, 2, 1), StepWork(500, {"output": 20, "schedule": 5}), StepWork(5, {"output": 20}), 300, 4
)
SETTING = Published("480p", 10, 105.0, 2.0)


def test_seconds_are_arithmetic_plus_exchange_plus_latency():
    machine = Machine("", flops=100.0, bandwidth=10.0, latency=0.5)
    assert machine.seconds(ALONE, 10, 10) == 10 * 10 + 5
    computed = 500 / 100 + 25 / 10 + 0.5 + 4 * 0.5
    reused = 5 / 100 + 20 / 10 + 0.5
    assert machine.seconds(SHARED, 10, 4) == pytest.approx(4 * computed + 6 * reused + 3)


def test_a_published_time_and_speedup_give_rate_and_steps():
    assert published_rate(ALONE, 105.0, 10) == 100
    computed = steps_of_speedup(ALONE, 10, 2.0)
    assert Machine("", 100.0, 1.0).seconds(ALONE, 10, computed) == pytest.approx(105 / 2)


def test_tables_and_picture_have_every_arrangement(tmp_path):
    found = predictions(SETTING, [ALONE, SHARED])
    assert found[0].plain == found[0].alone == pytest.approx(105)
    assert found[0].cached == pytest.approx(52.5)
    assert [line.split(" | ")[1] for line in count_table([ALONE, SHARED]).splitlines()[2:]] == [
        "guidance 1 x sequence 1",
        "guidance 2 x sequence 1",
    ]
    rows = prediction_table(found).splitlines()[2:]
    assert len(rows) == 3  # one GPU has no link
    assert "(1.0x) | 52.5 (2.0x)" in rows[0]
    assert plot([(SETTING, found)], tmp_path / "scaling.png").read_bytes()[1:4] == b"PNG"


def test_a_step_that_calls_no_model_sends_nothing():
    calls = [{"output": 20}, {"output": 30}]
    trace = Trace(4, [StepRecord(i, 0.0, i in (0, 2)) for i in range(4)])
    assert calls_of_steps(calls, trace, 4) == [{"output": 20}, {}, {"output": 30}, {}]
    assert calls_of_steps(calls, None, 2) == calls
