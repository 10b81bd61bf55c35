"""How often a run calls the model, and what the config's cache, replay and targets make of it."""

from __future__ import annotations

import json

import pytest

from adacache.calibration.calibration import Calibration, Point
from adacache.trace import StepRecord, Trace
from opensora.config.schema import DiffusionSchedulerConfig, SchedulerConfig
from opensora.config.target import conditions_of, timesteps_of
from opensora.errors import ConfigError
from opensora.registry import SCHEDULERS, build_module


@pytest.mark.parametrize("steps", [4, 5, 6, 50])
@pytest.mark.parametrize(
    "options",
    [{"type": "ddim"}, {"type": "pndm"}, {"type": "pndm", "skip_prk_steps": True}, {"type": "euler"}, {"type": "heun"}],
    ids=str,
)
def test_the_sampler_calls_the_model_as_often(options, steps):
    config = DiffusionSchedulerConfig(num_sampling_steps=steps, **options)
    sampler = build_module(vars(config), SCHEDULERS)
    assert config.num_model_calls == sampler.num_model_calls == len(sampler.timesteps())


@pytest.mark.parametrize(
    "options", [{"type": "heun"}, {"type": "pndm", "skip_prk_steps": True}, {"type": "ddim"}], ids=str
)
def test_one_step(options):
    config = DiffusionSchedulerConfig(num_sampling_steps=1, **options)
    assert config.num_model_calls == build_module(vars(config), SCHEDULERS).num_model_calls == 1


def test_rectified_flow_calls_it_once_per_step():
    for solver in ("euler", "adams", "midpoint"):
        assert SchedulerConfig(num_sampling_steps=30, solver=solver).num_model_calls == 30


@pytest.mark.parametrize("solver", ["ddim", "pndm", "euler", "heun"])
def test_times_of_a_run(latte, solver):
    config = latte({"scheduler.type": solver})
    times = timesteps_of(config)
    assert len(times) == config.scheduler.num_model_calls and all(isinstance(time, float) for time in times)
    assert sorted(times, reverse=True) == list(times)


def test_a_cache_has_to_fit_the_calls_of_the_model(latte):
    entries = {"computed_steps": [0, 14], "num_sampling_steps": 15}
    config = latte({"scheduler.type": "pndm", "cache": entries})
    assert config.cache.computed_steps == (0, 14)
    with pytest.raises(ConfigError, match="cache"):
        latte({"cache": entries})


def test_a_replayed_run_had_as_many_calls(latte, tmp_path):
    trace = Trace(15, [StepRecord(i, 900.0 - i, i % 2 == 0) for i in range(15)])
    trace.save(tmp_path / "trace.json")
    replay = str(tmp_path / "trace.json")
    assert latte({"scheduler.type": "pndm"}, replay=replay).cache.computed_steps == tuple(range(0, 15, 2))
    with pytest.raises(ConfigError, match="replay: .*15"):
        latte({"scheduler.type": "heun"}, replay=replay)


@pytest.fixture
def calibration(latte, tmp_path):
    """Of a run of pndm in 6 steps, 15 calls."""
    config = latte({"scheduler.type": "pndm"})
    points = [Point(tuple(range(count)), 20.0 + count, 0.1, 20.0) for count in (3, 6, 9)]
    made = Calibration(conditions_of(config), timesteps_of(config), tuple(points), 0.01, {})
    (tmp_path / "calibration.json").write_text(json.dumps(made.to_dict()))
    return str(tmp_path / "calibration.json")


def test_a_target_counts_calls(latte, calibration):
    pndm = {"scheduler.type": "pndm", "calibration": calibration}
    assert latte(pndm, max_steps_computed=6).cache.computed_steps == (0, 1, 2, 3, 4, 5)
    assert latte(pndm, max_steps_computed=6).cache.num_sampling_steps == 15
    assert len(latte(pndm, speedup=2.0).cache.computed_steps) == 7
    with pytest.raises(ConfigError, match="it was made for solver pndm, but this run has ddim"):
        latte({"calibration": calibration}, speedup=2.0)


def test_a_draft_computes_a_share_of_the_calls(latte, calibration):
    drafted = latte({"scheduler.type": "pndm", "calibration": calibration}, draft=2)
    assert len(drafted.cache.computed_steps) == round(0.27 * 15)
