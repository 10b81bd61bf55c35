"""Operations of steps, by hand."""

from __future__ import annotations

import pytest

from adacache.calibration.plan import Clip
from adacache.policies.fixed import FixedIntervalConfig
from adacache.trace import StepRecord, Trace
from bench.costs import Costs, StepCosts, warm_up
from bench.flops import counted_flops
from bench.measure import computed_steps, cost_values, step_records
from bench.points import BenchPoint
from bench.sampler import Sampled, Sampler
from opensora.pipeline import SamplingPipeline
from support import small_model


def trace(*computed: bool, share: float | None = None) -> Trace:
    times = [10.0 if is_computed else 1.0 for is_computed in computed]
    records = [
        StepRecord(i, 1000.0 - i, is_computed, milliseconds=spent, computed_share=share)
        for i, (is_computed, spent) in enumerate(zip(computed, times, strict=True))
    ]
    return Trace(len(records), records)


UNCACHED = StepCosts.of([100.0] * 4, None)


def test_steps_of_one_kind_cost_the_same():
    costs = StepCosts.of([100, 8, 8, 100], trace(True, False, False, True))
    assert (costs.computed, costs.reused) == (100, 8)
    assert costs.flops(trace(True, False, True, True), 4) == 308
    assert costs.flops(None, 7) == 700


def test_a_reused_step_without_a_call_costs_nothing():
    costs = StepCosts.of([100, 100], trace(True, False, False, True))
    assert (costs.computed, costs.reused, costs.flops(trace(True, False, True, True), 4)) == (100, 0, 300)


def test_a_policy_of_branches_has_costs_by_step():
    costs = StepCosts.of([100, 40, 70, 100], trace(True, True, True, True, share=0.5))
    assert costs.flops(trace(True, True, True, True, share=0.5), 4) == 310
    assert computed_steps(trace(True, True, share=0.5), 2) == 1.0


def test_compute_is_in_computed_steps():
    costs = Costs(UNCACHED, {"half": StepCosts.of([100, 10], trace(True, False))})
    sampled = Sampled(None, 2.0, 0.5, 4, trace(True, False, False, True), 3_000_000, None)
    values = cost_values(BenchPoint("half", 2), sampled, costs)
    assert values["compute"] == pytest.approx(2.2)
    assert values["tflops"] == pytest.approx(220e-12)
    assert (values["computed_steps"], values["total_seconds"], values["cache_mb"]) == (2, 2.5, 3)
    assert "peak_mb" not in values


def test_records_of_steps_are_json():
    records = step_records(Trace(1, [StepRecord(0, 1000.0, True, distance=float("inf"), milliseconds=3.0)]), [])
    assert records[0]["distance"] is None
    assert records[0]["milliseconds"] == 3.0
    assert step_records(None, [1000.0, 500.0])[1] == {
        **dict.fromkeys(records[0]),
        "index": 1,
        "timestep": 500.0,
        "computed": True,
    }


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    from opensora.config.loading import load_config

    options = {"scheduler.num_sampling_steps": 6, "image_size": (32, 48)}
    return Sampler(SamplingPipeline.from_config(load_config(small_model.SAMPLE, None, options)))


def test_reused_steps_are_cheap_and_the_model_is_left_as_it_was(sampler):
    clip = Clip("a red circle", 1)
    sampler.prepare(clip)
    with counted_flops(sampler.pipe.model) as flops:
        sampled = sampler.sample(BenchPoint("fixed", cache=FixedIntervalConfig(interval=3)), clip)
    assert [record.computed for record in sampled.trace.records] == [True, False, False] * 2
    assert len(set(flops[::3])) == 1
    assert flops[1] < 0.05 * flops[0]
    assert "forward" not in vars(sampler.pipe.model)
    assert sampled.cache_bytes > 0
    assert sampled.frames.shape == (17, 32, 48, 3)


def test_points_have_their_own_steps_and_solver(sampler):
    clip = Clip("a red circle", 1)
    with counted_flops(sampler.pipe.model) as flops:
        fewer = sampler.sample(BenchPoint("steps", 4, solver="adams", num_steps=4), clip)
    assert fewer.num_steps == len(flops) == 4
    assert fewer.trace is None
    assert (sampler.pipe.scheduler.num_sampling_steps, sampler.pipe.scheduler.solver) == (6, "euler")


def test_texts_are_encoded_once(sampler, monkeypatch):
    encoder = sampler.pipe.text_encoder
    clip = Clip("a blue star", 1)
    sampler.prepare(clip)
    monkeypatch.setattr(encoder._encoder.encoder, "encode", lambda prompts: pytest.fail("encoded again"))
    sampler.sample(BenchPoint("uncached"), clip)


def test_warming_up_counts_every_policy(sampler):
    points = [
        BenchPoint("a", 2, cache=FixedIntervalConfig(interval=3)),
        BenchPoint("a", 3, cache=FixedIntervalConfig(interval=2)),
        BenchPoint("b", place=1, cache=FixedIntervalConfig(interval=2)),
        BenchPoint("steps", 4, num_steps=4),
    ]
    finished = []
    costs = warm_up(sampler, points, Clip("a red circle", 1), finished.append)
    assert finished == ["uncached", "b", "a"]
    assert costs.of("a@3") is costs.counted["a"]
    assert costs.of("steps@4") is costs.uncached
    assert costs.of("b#1") is costs.counted["b#1"]
