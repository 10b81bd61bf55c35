"""What a finished run says, with numbers worked out by hand."""

import pytest

from adacache import AdaCacheConfig, StepRecord, Trace
from adacache.outcome import surprises
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
