"""How much of a bench fits into a number of minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FEWEST_PROMPTS = 4


@dataclass(frozen=True)
class Scope:
    """What is run: the first so many prompts and seeds, and these budgets."""

    num_prompts: int
    num_seeds: int
    budgets: tuple[int, ...]

    def without(self, wanted: Scope) -> str | None:
        """One sentence on what ``wanted`` has and this has not; None where nothing is left out."""
        if self == wanted:
            return None
        parts = []
        if self.num_seeds < wanted.num_seeds:
            parts.append(f"{self.num_seeds} of {wanted.num_seeds} seeds")
        if self.num_prompts < wanted.num_prompts:
            parts.append(f"{self.num_prompts} of {wanted.num_prompts} prompts")
        if self.budgets != wanted.budgets:
            parts.append(f"the budgets {', '.join(map(str, self.budgets))} of {', '.join(map(str, wanted.budgets))}")
        return f"To keep to the time that was given, {_list(parts)} were run."


def fitting_scope(wanted: Scope, seconds: Callable[[Scope], float], available: float) -> Scope:
    """The largest part of ``wanted`` that takes no more than the ``available`` seconds.

    Seeds go first, then prompts down to four, then budgets, the outermost last; the smallest part is run in any case.
    """
    smaller = wanted
    for smaller in _smaller_ones(wanted):
        if seconds(smaller) <= available:
            return smaller
    return smaller


def _smaller_ones(wanted: Scope) -> Iterator[Scope]:
    """``wanted`` and its parts, each smaller than the one before."""
    for seeds in range(wanted.num_seeds, 0, -1):
        yield Scope(wanted.num_prompts, seeds, wanted.budgets)
    fewest = min(FEWEST_PROMPTS, wanted.num_prompts)
    for prompts in range(wanted.num_prompts - 1, fewest - 1, -1):
        yield Scope(prompts, 1, wanted.budgets)
    budgets = list(wanted.budgets)
    while len(budgets) > 1:
        budgets.pop(_most_dispensable(budgets))
        yield Scope(fewest, 1, tuple(budgets))


def _most_dispensable(budgets: Sequence[int]) -> int:
    """Index of the inner budget whose neighbors are nearest to each other; of two, that of the larger.

    The outermost say how far curves reach, and between them values can be interpolated.
    """
    if len(budgets) == 2:
        return 1
    return min(range(1, len(budgets) - 1), key=lambda i: budgets[i + 1] - budgets[i - 1])


def _list(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
