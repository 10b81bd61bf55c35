"""Which threshold computes a wanted number of steps: a search whose evaluations serve all numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

CLOSE_ENOUGH = 0.15  # steps
MOST_EVALUATIONS = 9  # per budget
NARROWEST = 1.003  # largest over smallest threshold of a range that is not searched any further
INNER = 0.15  # share of the range, at each end, that an interpolated threshold keeps away from


class BudgetSearch:
    """Thresholds by mean number of computed steps, which must not grow with the threshold.

    Args:
        mean_steps: what a threshold computes; asked at most once for each.
        bounds: smallest and largest threshold that is tried.
    """

    def __init__(self, mean_steps: Callable[[float], float], bounds: tuple[float, float]) -> None:
        self._mean_steps = mean_steps
        self._bounds = bounds
        self._known: dict[float, float] = {}

    def meet(self, budget: float) -> tuple[float, float]:
        """The threshold that computes nearest to ``budget`` steps, and what it does compute."""
        for attempt in range(MOST_EVALUATIONS):
            if self._known and abs(self._nearest(budget)[1] - budget) <= CLOSE_ENOUGH:
                break
            threshold = self._next(budget, attempt)
            if threshold is None:
                break
            self._known[threshold] = self._mean_steps(threshold)
        return self._nearest(budget)

    def _nearest(self, budget: float) -> tuple[float, float]:
        return min(self._known.items(), key=lambda known: abs(known[1] - budget))

    def _next(self, budget: float, attempt: int) -> float | None:
        """Bisection of the logarithm, and every other time interpolation; None when there is nothing left to try."""
        above = {threshold: steps for threshold, steps in self._known.items() if steps > budget}
        below = {threshold: steps for threshold, steps in self._known.items() if steps < budget}
        if not below:  # whether the budget can be met at all
            return None if self._bounds[1] in self._known else self._bounds[1]
        low, high = max(above, default=self._bounds[0]), min(below)
        if high / low < NARROWEST:
            return None
        share = 0.5
        if above and attempt % 2:
            share = (above[low] - budget) / (above[low] - below[high])
            share = min(max(share, INNER), 1 - INNER)
        return math.exp((1 - share) * math.log(low) + share * math.log(high))
