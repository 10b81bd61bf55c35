"""What fits into a number of minutes."""

from __future__ import annotations

import pytest

from bench.run import Scope, fitting_scope

WANTED = Scope(32, 3, (8, 10, 12, 15, 20))


def seconds(scope: Scope) -> float:
    """Ten seconds per clip and budget."""
    return 10.0 * scope.num_prompts * scope.num_seeds * len(scope.budgets)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (4800, WANTED),
        (4799, Scope(32, 2, WANTED.budgets)),
        (3000, Scope(32, 1, WANTED.budgets)),
        (1000, Scope(20, 1, WANTED.budgets)),
        (200, Scope(4, 1, WANTED.budgets)),
        (199, Scope(4, 1, (8, 12, 15, 20))),
        (120, Scope(4, 1, (8, 15, 20))),
        (80, Scope(4, 1, (8, 20))),
        (40, Scope(4, 1, (8,))),
        (-5, Scope(4, 1, (8,))),  # the smallest is run in any case
    ],
)
def test_seeds_go_first_then_prompts_then_budgets(available, expected):
    assert fitting_scope(WANTED, seconds, available) == expected


def test_few_prompts_are_not_made_fewer():
    assert fitting_scope(Scope(2, 2, (8, 10)), seconds, 30) == Scope(2, 1, (8,))
    assert fitting_scope(Scope(2, 1, ()), lambda scope: 10.0, 1) == Scope(2, 1, ())


def test_what_is_left_out_is_said():
    assert WANTED.without(WANTED) is None
    assert Scope(4, 1, (8, 20)).without(WANTED) == (
        "To keep to the time that was given, 1 of 3 seeds, 4 of 32 prompts and the budgets 8, 20 of 8, 10, 12, 15, 20 "
        "were run."
    )
