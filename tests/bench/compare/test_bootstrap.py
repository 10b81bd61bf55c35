from __future__ import annotations

import numpy as np
import pytest

from bench.compare.bootstrap import group_means, interval


def test_equal_values_leave_no_doubt():
    assert interval([3.5] * 8) == (3.5, 3.5, 3.5)
    assert interval([3.5]) == (3.5, 3.5, 3.5)


def test_of_two_values_the_draws_are_known():
    # A mean of two draws from {0, 1} is 0 or 1 in a quarter of the draws each, so both ends are beyond 2.5 %.
    assert interval([0.0, 1.0]) == (0.5, 0.0, 1.0)


def test_many_values_come_near_the_normal_interval():
    values = np.random.default_rng(1).normal(10, 2, 400)
    mean, low, high = interval(values, draws=4000)
    error = values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error)


def test_groups_are_drawn_whole_and_count_the_same():
    values, groups = [1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]
    assert group_means(np.array(values), groups).tolist() == [1.0, 5.0]
    assert interval(values, groups)[0] == 3.0
    assert interval(values, groups) == interval([1.0, 5.0])
    # Copies of the same prompts tell nothing new.
    assert interval([1.0, 2.0, 4.0] * 10, ["a", "b", "c"] * 10) == pytest.approx(interval([1.0, 2.0, 4.0]))


def test_the_same_arguments_give_the_same_interval():
    values = np.random.default_rng(0).normal(size=50).tolist()
    assert interval(values) == interval(values)
    assert interval(values, seed=1) != interval(values)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="one finite number or more"):
        interval(values)


def test_every_value_needs_its_group():
    with pytest.raises(ValueError, match="got 2 values and 1 groups"):
        interval([1.0, 2.0], ["a"])
