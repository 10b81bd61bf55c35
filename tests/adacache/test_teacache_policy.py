"""TeaCache adds up what the polynomial makes of changes, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from adacache.policies.base import Decision, SignalChange
from adacache.policies.teacache import PUBLISHED, TeaCacheConfig


def decide(config: TeaCacheConfig, changes: list[float]) -> list[Decision]:
    """The decisions of a run whose input changes by these shares from step to step, the first step in front."""
    policy = config.make_policy(len(changes) + 1)
    given = [None, *(SignalChange(10 * change, 10.0) for change in changes)]
    return [policy.decide(step, change) for step, change in enumerate(given)]


def computed(decisions: list[Decision]) -> list[int]:
    return [step for step, decision in enumerate(decisions) if decision.compute]


def test_changes_add_up_until_a_step_is_computed():
    # p(x) = x^2 + x: 0.1 -> 0.11, 0.2 -> 0.24, 0.3 -> 0.39, 0.4 -> 0.56
    decisions = decide(TeaCacheConfig((1, 1, 0), threshold=0.5), [0.2, 0.2, 0.1, 0.3, 0.4, 0.1, 0.1])
    # 0.24; 0.48; 0.59: computed, from 0 again; 0.39; 0.95: computed; 0.11; the last step compares nothing
    assert computed(decisions) == [0, 3, 5, 7]
    assert [d.value for d in decisions[1:-1]] == pytest.approx([0.24, 0.48, 0.59, 0.39, 0.95, 0.11])
    assert decisions[-1].value is None
    assert decisions[0] == Decision(True)
    assert [d.distance for d in decisions[1:]] == pytest.approx([0.2, 0.2, 0.1, 0.3, 0.4, 0.1, 0.1])


def test_a_sum_at_the_threshold_is_computed():
    assert computed(decide(TeaCacheConfig((1, 0), threshold=0.5), [0.25, 0.25, 0.25, 0.25])) == [0, 2, 4]


@pytest.mark.parametrize(("num_steps", "steps"), [(1, [0]), (2, [0, 1]), (4, [0, 3])])
def test_the_first_and_the_last_step_are_computed_whatever_changes(num_steps, steps):
    assert computed(decide(TeaCacheConfig((1, 0)), [0.0] * (num_steps - 1))) == steps


def test_a_negative_polynomial_does_not_lower_the_sum():
    # p(x) = 0.3 - x: 0.1 -> 0.2, 0.5 -> -0.2, which counts as 0. As published the third sum were 0.2: reused.
    decisions = decide(TeaCacheConfig((-1, 0.3), threshold=0.35), [0.1, 0.5, 0.1, 0.0])
    assert [d.value for d in decisions[1:4]] == pytest.approx([0.2, 0.2, 0.4])
    assert computed(decisions) == [0, 3, 4]


@pytest.mark.parametrize(("threshold", "steps"), [(0.2, [0, 5, 10, 11]), (0.1, [0, 3, 6, 9, 11])])
def test_open_soras_constant_limits_reuse_even_where_nothing_changes(threshold, steps):
    # p(0) = 0.0484: five of them exceed 0.2, three exceed 0.1.
    assert computed(decide(TeaCacheConfig("open-sora", threshold), [0.0] * 11)) == steps


def test_lattes_polynomial_in_numbers():
    # x = 0.1: -2464.34137e-4 + 308.044764e-3 + 0.807447667 - 0.411385132 + 0.111001402
    (_, decision, _) = decide(TeaCacheConfig("latte"), [0.1, 0.1])
    assert decision.value == pytest.approx(-0.246434137 + 0.308044764 + 0.807447667 - 0.411385132 + 0.111001402)


@pytest.mark.parametrize("change", [SignalChange(1.0, 0.0), SignalChange(math.nan, 1.0), SignalChange(math.inf, 1.0)])
def test_what_is_no_number_is_computed(change):
    policy = TeaCacheConfig("latte").make_policy(9)  # infinitely negative at infinity
    policy.decide(0, None)
    decision = policy.decide(1, change)
    assert decision.compute and decision.value == math.inf
    assert policy.decide(2, SignalChange(0.03, 1.0)).value < 0.1  # the sum began anew


def test_a_model_of_the_authors_can_be_named():
    assert TeaCacheConfig("open-sora").coefficients == PUBLISHED["open-sora"]
    assert TeaCacheConfig("open-sora").threshold == 0.1  # "slow"
    assert {len(coefficients) for coefficients in PUBLISHED.values()} == {5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": "opensora"}, "coefficients 'opensora' is unknown, did you mean 'open-sora'"),
        ({"coefficients": ()}, "coefficients must be a list of 1 to 8 finite numbers"),
        ({"coefficients": (1,) * 9}, "coefficients must be a list of 1 to 8 finite numbers"),
        ({"coefficients": (1, math.nan)}, "coefficients must be a list"),
        ({"coefficients": 1.0}, "coefficients must be a list"),
        ({"coefficients": (1,), "threshold": 0}, "threshold must be a finite number above 0"),
        ({"coefficients": (1,), "schedule": "video"}, "schedule 'video' is unknown"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TeaCacheConfig(**options)
