"""A schedule written down beforehand is followed to the letter."""

import pytest

from adacache import StepController, StepRecord, Trace
from adacache.policies.static import StaticScheduleConfig


def test_exactly_the_listed_steps_are_computed(model, tokens):
    controller = StepController(StaticScheduleConfig((0, 1, 4, 5)))
    with controller.run(num_steps=7):
        outputs = []
        for step, value in enumerate([10, 11, 12, 13, 14, 15, 16]):
            controller.begin_step(step)
            outputs.append(model(tokens(float(value)), controller).mean().item())
    assert outputs == [20, 22, 12 + 11, 13 + 11, 28, 30, 16 + 15]
    assert controller.trace.computed_steps == [0, 1, 4, 5]
    assert [r.rate for r in controller.trace.records] == [1, 3, None, None, 1, 2, None]
    assert all(record.distance is None for record in controller.trace.records)


@pytest.mark.parametrize("steps", [(1, 2), (0, 2, 2), (0, 3, 1)])
def test_a_list_that_does_not_ascend_from_the_first_step_is_refused(steps):
    with pytest.raises(ValueError, match="computed_steps must ascend from 0"):
        StaticScheduleConfig(steps)


def test_a_list_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="reach to 9, but the run has steps 0 to 7"):
        StaticScheduleConfig((0, 9)).make_policy(8)


def recorded(path, computed=(0, 1, 4), num_steps=6, records=6):
    """A trace on disk."""
    steps = [StepRecord(i, None, i in computed) for i in range(records)]
    Trace(num_steps, steps).save(path)
    return path


def test_a_recorded_schedule_is_taken_from_its_trace(tmp_path):
    config = StaticScheduleConfig.from_trace(recorded(tmp_path / "trace.json"))
    assert config == StaticScheduleConfig((0, 1, 4), 6)
    assert StaticScheduleConfig.from_dict(config.to_dict()) == config


def test_a_truncated_trace_is_refused(tmp_path):
    path = recorded(tmp_path / "trace.json", num_steps=30)
    with pytest.raises(ValueError, match="holds 6 of 30 steps; replay the trace of a complete run"):
        StaticScheduleConfig.from_trace(path)


def test_a_schedule_of_another_step_count_is_refused():
    with pytest.raises(ValueError, match="made for 6 sampling steps, but the run has 8"):
        StaticScheduleConfig((0, 1, 4), 6).validate(8)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="static schedule option"):
        StaticScheduleConfig.from_dict({"computed_steps": [0], "thresholds": [1]})
