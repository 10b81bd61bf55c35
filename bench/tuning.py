"""Find the threshold, or the scale of AdaCache's published codebook, that computes a wanted number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from adacache import Codebook, StepController
from adacache.calibration.plan import Clip
from adacache.calibration.runner import Runner
from adacache.codebook import PRESETS
from adacache.policies.base import PolicyConfig

REACHED = 0.5  # steps: a policy that is further off does not meet the budget
FACTORS = (0.02, 8.0)  # smallest and largest scale of the thresholds
HOLDS = (2.0, 2.6)  # longest holds that are tried, as multiples of the budget's mean gap
CLOSE_ENOUGH = 0.15  # steps
MOST_EVALUATIONS = 9  # per budget
NARROWEST = 1.003  # a range whose largest threshold is below this multiple of its smallest is not searched further
THRESHOLDS = (1e-4, 10.0)  # smallest and largest that are tried
INNER = 0.15  # share of the range, at each end, that an interpolated threshold avoids


class Tried(NamedTuple):
    """What a policy did on the tuning clips: mean computed steps, and the mean log of its latents' squared error."""

    steps: float
    log_error: float


def scaled_codebook(longest: int, factor: float) -> Codebook:
    """Return the published fast codebook with its holds scaled to `longest` and its thresholds by `factor`."""
    fast = PRESETS["fast30"]
    rates = tuple(max(1, round(rate * longest / fast.rates[0])) for rate in fast.rates)
    return Codebook(tuple(threshold * factor for threshold in fast.thresholds), rates)


def best_codebook(run: Callable[[Codebook], Tried], num_steps: int, count: int) -> tuple[Codebook, float]:
    """Return the codebook that computes `count` of `num_steps` on average, and what it does compute.

    Of several longest holds, the one with the smallest error is taken among those that come near the count.
    """
    tried: dict[Codebook, Tried] = {}
    found: list[tuple[Codebook, float]] = []
    for longest in dict.fromkeys(max(1, round(factor * num_steps / count)) for factor in HOLDS):

        def steps_of(factor: float, longest: int = longest) -> float:
            codebook = scaled_codebook(longest, factor)
            tried[codebook] = run(codebook)
            return tried[codebook].steps

        factor, steps = BudgetSearch(steps_of, FACTORS).meet(count)
        found.append((scaled_codebook(longest, factor), steps))
    near = [own for own in found if abs(own[1] - count) <= REACHED]
    near = near or [min(found, key=lambda own: abs(own[1] - count))]
    return min(near, key=lambda own: tried[own[0]].log_error)


def try_policy(runner: Runner, policy: PolicyConfig, clips: Sequence[Clip], exact: np.ndarray) -> Tried:
    """Run the clips under a policy; `exact` has their latents without reuse, (clips, ...)."""
    latents, counts = final_latents(runner, policy, clips)
    errors = np.square(latents - exact).reshape(len(clips), -1).mean(1)
    with np.errstate(divide="ignore"):  # a policy that computes every step has no error
        return Tried(float(np.mean(counts)), float(np.log(errors).mean()))


def final_latents(runner: Runner, policy: PolicyConfig | None, clips: Sequence[Clip]) -> tuple[np.ndarray, list[int]]:
    """Return final latents (clips, 4, T, H', W') and, with a policy, the number of computed steps of each clip."""
    controller = None if policy is None else StepController(policy)
    latents: list[np.ndarray] = []
    counts: list[int] = []

    def collect(batch: Tensor) -> None:
        latents.append(batch.cpu().numpy())
        counts.extend([] if controller is None else [trace.num_computed for trace in controller.traces])

    runner.sample(clips, controller, collect)
    return np.concatenate(latents), counts


class BudgetSearch:
    """Finds thresholds, or scales of thresholds, by their mean number of computed steps, which must not grow with them.

    Args:
        mean_steps: returns how many steps a threshold computes; called at most once for each.
        bounds: smallest and largest threshold that is tried.
    """

    def __init__(self, mean_steps: Callable[[float], float], bounds: tuple[float, float] = THRESHOLDS) -> None:
        self._mean_steps = mean_steps
        self._smallest, self._largest = bounds
        self._known: dict[float, float] = {}

    def meet(self, budget: float) -> tuple[float, float]:
        """Return the threshold whose number of computed steps is nearest to `budget`, and that number."""
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
        """Bisect the logarithm or, every other time, interpolate; return None if there is nothing left to try."""
        above = {threshold: steps for threshold, steps in self._known.items() if steps > budget}
        below = {threshold: steps for threshold, steps in self._known.items() if steps < budget}
        if not below:  # whether the budget can be met at all
            return None if self._largest in self._known else self._largest
        low, high = max(above, default=self._smallest), min(below)
        if high / low < NARROWEST:
            return None
        share = 0.5
        if above and attempt % 2:
            share = (above[low] - budget) / (above[low] - below[high])
            share = min(max(share, INNER), 1 - INNER)
        return math.exp((1 - share) * math.log(low) + share * math.log(high))
