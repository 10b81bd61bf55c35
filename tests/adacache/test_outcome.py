"""What a finished run says, with numbers worked out by hand."""

import math

import pytest

from adacache import AdaCacheConfig, StepRecord, Trace
from adacache.outcome import change_risk, surprises
from adacache.policies.base import PolicyConfig
from adacache.policies.fixed import FixedIntervalConfig
from adacache.policies.magcache import MagCacheConfig
from adacache.policies.static import StaticScheduleConfig


def trace(pattern: str) -> Trace:
    """A complete run: # for a computed step, . for a reused one."""
    return Trace(len(pattern), [StepRecord(i, None, mark == "#") for i, mark in enumerate(pattern)])


def test_a_run_as_asked_surprises_nobody():
    assert surprises(trace("##..##"), AdaCacheConfig()) == []
    assert surprises(trace("##..##"), StaticScheduleConfig((0, 1, 4, 5))) == []


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (AdaCacheConfig(), "the thresholds of its codebook are too small"),
        (StaticScheduleConfig((0, 1, 2)), "its schedule computes every step"),
        (FixedIntervalConfig(1), "its schedule computes every step"),
        (MagCacheConfig([1, 1]), "its threshold is too small for this model"),
    ],
)
def test_a_run_that_never_reused_says_so(config, cause):
    (sentence,) = surprises(trace("###"), config)
    assert "no step of 3 was reused" in sentence and cause in sentence


def test_a_run_that_computed_other_steps_than_listed_says_so():
    (sentence,) = surprises(trace("#.#."), StaticScheduleConfig((0, 1)))
    assert sentence == "steps [0, 2] were computed, but the schedule lists [0, 1]"


@pytest.mark.parametrize(("shares", "surprise"), [([1.0, 0.5, 1.0], False), ([1.0, 1.0, 1.0], True)])
def test_where_single_branches_are_reused_every_step_counts_as_computed(shares, surprise):
    records = [StepRecord(i, None, True, computed_share=share) for i, share in enumerate(shares)]
    sentences = surprises(Trace(len(shares), records), PolicyConfig())
    assert len(sentences) == surprise
    assert all("no step of 3 was reused" in sentence and "no branch" in sentence for sentence in sentences)


def measured(distances: dict[int, float | None], num_steps: int = 8, timesteps: list[float] | None = None) -> Trace:
    """A run whose computed steps are the keys, with the distance measured at each."""
    times = timesteps or [None] * num_steps
    return Trace(
        num_steps,
        [StepRecord(i, times[i], i in distances, distance=distances.get(i)) for i in range(num_steps)],
    )


def test_a_gap_counts_by_its_distance_and_its_reused_steps():
    # Steps 1 to 2 and 4 to 6 of 8 are reused: 0.1 * 2/8 + 0.3 * 3/8.
    assert change_risk(measured({0: None, 3: 0.1, 7: 0.3})) == pytest.approx(0.1 * 2 / 8 + 0.3 * 3 / 8)


def test_reused_steps_count_by_the_time_they_span():
    # From step 1 to step 2 the flow goes from 900 to 600, from step 3 to step 4 from 500 to 100.
    times = [1000.0, 900.0, 600.0, 500.0, 100.0]
    subject = measured({0: None, 2: 0.2, 4: 0.5}, 5, times)
    assert change_risk(subject) == pytest.approx(0.2 * 300 / 1000 + 0.5 * 400 / 1000)


def test_what_was_computed_at_once_or_reused_after_the_last_measurement_adds_nothing():
    assert change_risk(measured({0: None, 1: 0.9, 3: 0.4, 4: 0.9})) == pytest.approx(0.4 / 8)


def test_nothing_reused_is_no_risk():
    assert change_risk(measured({i: 0.5 if i else None for i in range(8)})) == 0


def test_nothing_measured_is_no_number():
    assert change_risk(measured({0: None, 3: None, 7: None})) is None
    assert change_risk(Trace(8)) is None


@pytest.mark.parametrize("distance", [math.nan, math.inf])
def test_a_measurement_that_overflowed_is_the_highest_risk(distance):
    assert change_risk(measured({0: None, 3: distance, 7: 0.1})) == math.inf


def test_faster_change_or_longer_reuse_is_more_risk():
    calm, busy = measured({0: None, 3: 0.1, 7: 0.1}), measured({0: None, 3: 0.1, 7: 0.2})
    careful = measured({0: None, 3: 0.1, 5: 0.1, 7: 0.1})
    assert change_risk(careful) < change_risk(calm) < change_risk(busy)
