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

TUNING_ROUNDS = 8
REACHED = 0.5  # steps: a policy that is further off does not meet the budget
FACTORS = (0.02, 8.0)  # smallest and largest scale of the thresholds
HOLDS = (2.0, 2.6)  # longest holds that are tried, as multiples of the budget's mean gap


class Tried(NamedTuple):
    """What a policy did on the tuning clips: mean computed steps, and the mean log of its latents' squared error."""

    steps: float
    log_error: float


def longest_holds(num_steps: int, count: int) -> list[int]:
    """Return the longest holds of the codebooks that are tuned to `count` of `num_steps`; the best is chosen later."""
    return [max(1, round(factor * num_steps / count)) for factor in HOLDS]


def scaled_codebook(longest: int, factor: float) -> Codebook:
    """Return the published fast codebook with its holds scaled to `longest` and its thresholds by `factor`."""
    fast = PRESETS["fast30"]
    rates = tuple(max(1, round(rate * longest / fast.rates[0])) for rate in fast.rates)
    return Codebook(tuple(threshold * factor for threshold in fast.thresholds), rates)


def tune_codebook(mean_steps: Callable[[Codebook], float], longest: int, count: int) -> tuple[Codebook, float]:
    """Bisect the factor at which a codebook computes `count` steps on average; return it and what it does compute."""
    low, high = FACTORS
    best: tuple[Codebook, float] | None = None
    for _ in range(TUNING_ROUNDS):
        factor = math.sqrt(low * high)
        codebook = scaled_codebook(longest, factor)
        steps = mean_steps(codebook)
        if best is None or abs(steps - count) < abs(best[1] - count):
            best = (codebook, steps)
        if abs(steps - count) < CLOSE_ENOUGH:
            break
        low, high = (factor, high) if steps > count else (low, factor)
    return best


def best_codebook(run: Callable[[Codebook], Tried], num_steps: int, count: int) -> tuple[Codebook, float]:
    """Return the codebook that computes `count` of `num_steps` on average, and what it does compute.

    Of several longest holds, the one with the smallest error is taken among those that come near the count.
    """
    tried: dict[Codebook, Tried] = {}

    def steps_of(codebook: Codebook) -> float:
        tried[codebook] = run(codebook)
        return tried[codebook].steps

    holds = dict.fromkeys(longest_holds(num_steps, count))
    tuned = [tune_codebook(steps_of, longest, count) for longest in holds]
    near = [found for found in tuned if abs(found[1] - count) < REACHED] or [tuned[0]]
    return min(near, key=lambda found: tried[found[0]].log_error)


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


CLOSE_ENOUGH = 0.15  # steps
MOST_EVALUATIONS = 9  # per budget
NARROWEST = 1.003  # a range whose largest threshold is below this multiple of its smallest is not searched further
SMALLEST, LARGEST = 1e-4, 10.0  # thresholds that are tried
INNER = 0.15  # share of the range, at each end, that an interpolated threshold avoids


class BudgetSearch:
    """Finds thresholds by their mean number of computed steps, which must not grow with the threshold.

    Args:
        mean_steps: returns how many steps a threshold computes; called at most once for each.
    """

    def __init__(self, mean_steps: Callable[[float], float]) -> None:
        self._mean_steps = mean_steps
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
            return None if LARGEST in self._known else LARGEST
        low, high = max(above, default=SMALLEST), min(below)
        if high / low < NARROWEST:
            return None
        share = 0.5
        if above and attempt % 2:
            share = (above[low] - budget) / (above[low] - below[high])
            share = min(max(share, INNER), 1 - INNER)
        return math.exp((1 - share) * math.log(low) + share * math.log(high))
