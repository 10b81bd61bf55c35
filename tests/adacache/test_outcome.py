import pytest

from adacache import AdaCacheConfig, StepRecord, Trace
from adacache.outcome import surprises
from adacache.policies.static import StaticScheduleConfig


def trace(pattern: str) -> Trace:
    """A complete run: # for a computed step, . for a reused one."""
    return Trace(len(pattern), [StepRecord(i, None, mark == "#") for i, mark in enumerate(pattern)])


def test_a_run_as_asked_surprises_nobody():
    assert surprises(trace("##..##"), AdaCacheConfig()) == []
    assert surprises(trace("##..##"), StaticScheduleConfig((0, 1, 4, 5))) == []


@pytest.mark.parametrize(
    ("config", "cause"), [(AdaCacheConfig(), "thresholds"), (StaticScheduleConfig((0, 1, 2)), "computes every step")]
)
def test_a_run_that_never_reused_says_so(config, cause):
    (sentence,) = surprises(trace("###"), config)
    assert "no step of 3 was reused" in sentence and cause in sentence


def test_a_run_that_computed_other_steps_than_listed_says_so():
    (sentence,) = surprises(trace("#.#."), StaticScheduleConfig((0, 1)))
    assert sentence == "steps [0, 2] were computed, but the schedule lists [0, 1]"
