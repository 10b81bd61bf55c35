"""What the paper's AdaCache means at a budget of computed steps: its published codebook, scaled to meet it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from adacache import AdaCacheConfig, Codebook, StepController
from adacache.calibration.plan import Clip
from adacache.calibration.runner import Runner
from adacache.codebook import PRESETS
from adacache.policies.base import PolicyConfig
from bench.search import CLOSE_ENOUGH

TUNING_ROUNDS = 8
REACHED = 0.5  # steps: a policy that is further off does not meet the budget
FACTORS = (0.02, 8.0)  # of the thresholds
HOLDS = (2.0, 2.6)  # longest holds that are tried, over the mean gap of the budget


class Tried(NamedTuple):
    """What a policy did on the tuning clips: mean computed steps, and the mean log of its latents' squared error."""

    steps: float
    log_error: float


def longest_holds(num_steps: int, count: int) -> list[int]:
    """Longest holds of the codebooks that are tuned to ``count`` of ``num_steps``; the better of them is taken."""
    return [max(1, round(factor * num_steps / count)) for factor in HOLDS]


def scaled_codebook(longest: int, factor: float) -> Codebook:
    """The published fast codebook with its holds scaled to ``longest`` and its thresholds by ``factor``."""
    fast = PRESETS["fast30"]
    rates = tuple(max(1, round(rate * longest / fast.rates[0])) for rate in fast.rates)
    return Codebook(tuple(threshold * factor for threshold in fast.thresholds), rates)


def tune_codebook(mean_steps: Callable[[Codebook], float], longest: int, count: int) -> tuple[Codebook, float]:
    """The factor at which a codebook computes ``count`` steps on average, by bisection; and what it does compute."""
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
    """The codebook that computes ``count`` of ``num_steps`` on average, and what it does compute.

    Of several longest holds the one with the smaller error is taken, among those that come near the count.
    """
    tried: dict[Codebook, Tried] = {}

    def steps_of(codebook: Codebook) -> float:
        tried[codebook] = run(codebook)
        return tried[codebook].steps

    holds = dict.fromkeys(longest_holds(num_steps, count))
    tuned = [tune_codebook(steps_of, longest, count) for longest in holds]
    near = [found for found in tuned if abs(found[1] - count) < REACHED] or [tuned[0]]
    return min(near, key=lambda found: tried[found[0]].log_error)


def adacache_at(runner: Runner, base: AdaCacheConfig, clips: Sequence[Clip], count: int) -> AdaCacheConfig:
    """AdaCache as the paper has it, tuned on ``clips`` to ``count`` computed steps on average."""
    exact = final_latents(runner, None, clips)[0]

    def with_codebook(codebook: Codebook) -> AdaCacheConfig:
        return replace(base, codebook=codebook, bridge="hold", moreg=None)

    codebook, _ = best_codebook(
        lambda codebook: try_policy(runner, with_codebook(codebook), clips, exact), runner.num_steps, count
    )
    return with_codebook(codebook)


def try_policy(runner: Runner, policy: PolicyConfig, clips: Sequence[Clip], exact: np.ndarray) -> Tried:
    """Run the clips under a policy; ``exact`` are their latents without reuse, (clips, ...)."""
    latents, counts = final_latents(runner, policy, clips)
    errors = np.square(latents - exact).reshape(len(clips), -1).mean(1)
    with np.errstate(divide="ignore"):  # a policy that computes every step has no error
        return Tried(float(np.mean(counts)), float(np.log(errors).mean()))


def final_latents(runner: Runner, policy: PolicyConfig | None, clips: Sequence[Clip]) -> tuple[np.ndarray, list[int]]:
    """Final latents of all clips, (clips, 4, T, H', W'), and their numbers of computed steps (empty without one)."""
    controller = None if policy is None else StepController(policy)
    latents: list[np.ndarray] = []
    counts: list[int] = []

    def collect(batch: Tensor) -> None:
        latents.append(batch.cpu().numpy())
        counts.extend([] if controller is None else [trace.num_computed for trace in controller.traces])

    runner.sample(clips, controller, collect)
    return np.concatenate(latents), counts
