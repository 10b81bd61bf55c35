"""A schedule written down beforehand is followed to the letter."""

import json
from dataclasses import replace

import pytest

from adacache import BridgeConfig, StepController, StepRecord, Trace
from adacache.policies.base import Measurement
from adacache.policies.registry import config_to_dict
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


def test_a_metric_is_measured_and_changes_nothing(model, tokens):
    values = [10.0, 11, 12, 13, 14, 15, 16]
    plain = StaticScheduleConfig((0, 1, 4, 5), metric_blocks=(0,))
    outputs, traces = [], []
    for config in (plain, replace(plain, metric="t-attn", motion_strides=[1])):
        controller = StepController(config)
        with controller.run(num_steps=7):
            for step, value in enumerate(values):
                controller.begin_step(step)
                outputs.append(model(tokens(value), controller).mean().item())
        traces.append(controller.trace)
    assert outputs[:7] == outputs[7:]
    measured = traces[1].records
    # Relative change per step: from 10 to 11, from 11 to 14 in three steps, from 14 to 15.
    distances = [measured[step].distance for step in (1, 4, 5)]
    assert distances == pytest.approx([1 / 10, 3 / 11 / 3, 1 / 14])
    assert [measured[step].motion_score for step in (0, 1, 4, 5)] == [None, 0, 0, 0]  # all frames are equal
    unmeasured = [replace(r, distance=None, motion_score=None, milliseconds=None) for r in measured]
    assert unmeasured == [replace(r, milliseconds=None) for r in traces[0].records]


def test_several_blocks_are_averaged():
    policy = StaticScheduleConfig((0, 2), metric="t-attn", metric_blocks=(0, 1), motion_strides=(1,)).make_policy(4)
    first, second = (group[0] for group in policy.observed_sites)
    policy.observe(0, [])
    report = policy.observe(2, [Measurement(first, 0.2, 0.5), Measurement(second, 0.4, None)])
    assert (report.distance, report.motion_score, report.rate) == (pytest.approx(0.15), 0.5, 2)


def test_a_measuring_config_survives_plain_values():
    config = StaticScheduleConfig((0, 2), metric="s-attn", metric_blocks=(3, 1, 3), motion_strides=(1, 2))
    assert config.metric_blocks == (1, 3)
    assert StaticScheduleConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["motion_strides"] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "attn"}, "metric 'attn' is unknown"),
        ({"metric": ""}, "metric '' is unknown"),
        ({"metric": "t-attn", "metric_blocks": ()}, "metric_blocks must be a list"),
        ({"metric": "t-attn", "motion_strides": (0,)}, "motion_strides must be a list"),
        ({"metric": "t-attn", "motion_strides": None}, "motion_strides must be a list"),
        ({"motion_strides": (1,)}, "motion_strides need a metric"),
    ],
)
def test_wrong_measurements_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StaticScheduleConfig((0, 2), **options)


def test_a_measured_block_that_the_model_lacks_is_refused():
    config = StaticScheduleConfig((0, 2), metric="t-attn", metric_blocks=(4,))
    config.validate(4)
    with pytest.raises(ValueError, match="do not fit a model of 4 blocks"):
        config.validate(4, 4)
    StaticScheduleConfig((0, 2), metric_blocks=(4,)).validate(4, 4)  # measures nothing


@pytest.mark.parametrize("steps", [(1, 2), (0, 2, 2), (0, 3, 1)])
def test_a_list_that_does_not_ascend_from_the_first_step_is_refused(steps):
    with pytest.raises(ValueError, match="computed_steps must ascend from 0"):
        StaticScheduleConfig(steps)


def test_a_list_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="go up to 9, but the run has steps 0 to 7"):
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


def written(path, content):
    """A JSON file, or one with this text."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_schedule_is_read_from_a_trace_or_from_an_object(tmp_path):
    path = recorded(tmp_path / "trace.json")
    assert StaticScheduleConfig.from_file(path) == StaticScheduleConfig.from_trace(path)
    listed = written(tmp_path / "steps.json", {"computed_steps": [0, 1, 4]})
    assert StaticScheduleConfig.from_file(listed) == StaticScheduleConfig((0, 1, 4))
    config = StaticScheduleConfig((0, 2), 5, metric="s-attn", bridge=BridgeConfig("linear", 0.5))
    for name, content in (("plain.json", config.to_dict()), ("named.json", config_to_dict(config))):
        assert StaticScheduleConfig.from_file(written(tmp_path / name, content)) == config


def test_what_is_said_beside_a_file_counts_more(tmp_path):
    trace = Trace(4, [StepRecord(i, None, i != 2) for i in range(4)], {"bridge": {"kind": "fitted"}})
    trace.save(tmp_path / "trace.json")
    listed = written(tmp_path / "steps.json", {"computed_steps": [0, 1, 3], "bridge": "fitted"})
    for path in (tmp_path / "trace.json", listed):
        assert StaticScheduleConfig.from_file(path).bridge.kind == "fitted"
        config = StaticScheduleConfig.from_file(path, bridge="linear", cache_dtype="bf16")
        assert (config.computed_steps, config.bridge.kind, config.cache_dtype) == ((0, 1, 3), "linear", "bf16")
        with pytest.raises(ValueError, match="unknown static schedule option 'brige', did you mean 'bridge'"):
            StaticScheduleConfig.from_file(path, brige="linear")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[0, 1", "is not a JSON file: "),
        ([0, 1, 4], "holds no schedule; give a trace, or a JSON object with a list of computed_steps"),
        ({"metadata": {}}, "holds no schedule; give a trace"),  # of a video without a cache
        ({"computed_steps": [1, 2]}, "holds no schedule: computed_steps must ascend from 0"),
        ({"computed_steps": [0], "brige": 1}, "holds no schedule: unknown static schedule option 'brige'"),
        ({"computed_steps": [0], "policy": "fixed"}, "holds no schedule: unknown static schedule option 'policy'"),
        ({"records": 5}, "holds no trace"),
        ({"num_steps": 30, "records": [], "metadata": {}}, "holds 0 of 30 steps"),
    ],
)
def test_a_file_without_a_schedule_is_named(tmp_path, content, message):
    path = written(tmp_path / "schedule.json", content)
    with pytest.raises(ValueError, match=f"schedule.json {message}"):
        StaticScheduleConfig.from_file(path)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        StaticScheduleConfig.from_file(tmp_path / "nothing.json")


@pytest.mark.parametrize("reuses", ["tail", "output", "branches"])
def test_a_trace_of_what_is_not_the_stack_is_no_list_of_steps(reuses, tmp_path):
    trace = Trace(2, [StepRecord(0, 1000.0, True), StepRecord(1, 500.0, True)], {"reuses": reuses})
    trace.save(tmp_path / "trace.json")
    with pytest.raises(ValueError, match=f"reused the model's {reuses}; a list of steps can only repeat"):
        StaticScheduleConfig.from_trace(tmp_path / "trace.json")
