"""Searching thresholds, with computed steps that are a formula."""

from __future__ import annotations

import pytest

from bench.tuning import MOST_EVALUATIONS, BudgetSearch


def make_search(steps_of):
    asked = []

    def mean_steps(threshold: float) -> float:
        asked.append(threshold)
        return steps_of(threshold)

    return BudgetSearch(mean_steps), asked


def test_evaluations_serve_all_budgets():
    # 10 steps at 0.1, 20 at 0.05 ...
    search, asked = make_search(lambda threshold: min(30.0, 1 / threshold))
    for budget in (8, 10, 12, 15, 20):
        threshold, steps = search.meet(budget)
        assert steps == pytest.approx(budget, abs=0.15)
        assert threshold == pytest.approx(1 / budget, rel=0.02)
    assert len(asked) == len(set(asked)) < 5 * 5
    before = len(asked)
    assert search.meet(12)[1] == pytest.approx(12, abs=0.15)
    assert len(asked) == before


def test_a_staircase_gives_its_nearest_step():
    search, asked = make_search(lambda threshold: 13.0 if threshold > 0.3 else 9.0 + 11 * (threshold < 0.01) + 4)
    assert search.meet(12)[1] == 13
    assert len(asked) <= MOST_EVALUATIONS


def test_what_cannot_be_met_is_known_after_one_evaluation():
    search, asked = make_search(lambda threshold: max(9.4, 1 / threshold))
    assert search.meet(8) == (10.0, 9.4)
    assert asked == [10.0]
    assert search.meet(7)[1] == 9.4
    assert asked == [10.0]


def test_a_budget_above_all_ends_at_the_lower_bound():
    search, asked = make_search(lambda threshold: 20.0 - threshold)
    assert search.meet(25)[1] == pytest.approx(20.0, abs=0.1)
    assert len(asked) <= MOST_EVALUATIONS
