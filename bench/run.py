"""Measure clip by clip, all points of a clip in an order that rotates, as much as fits into the time."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.costs import Costs
from bench.log import BenchLog, VideoRow
from bench.measure import Meter, cost_values, references_of, step_records
from bench.points import BenchPoint
from bench.sampler import Sampled, Sampler
from bench.setting import BenchClip
from bench.showcase import Showcase

logger = logging.getLogger(__name__)

_GOLDEN = 0.618  # share of the points by which the order rotates from clip to clip, which spreads places evenly


@dataclass(frozen=True)
class Work:
    """What is to be measured, and how much of it is done.

    Attributes:
        references: the uncached run and the one of many steps.
        points: all others, in the plan's order.
        clips: all prompts under their first seed, then under their second.
        kept_budgets: budgets that no scope leaves out.
    """

    references: tuple[BenchPoint, BenchPoint]
    points: tuple[BenchPoint, ...]
    clips: tuple[BenchClip, ...]
    log: BenchLog
    showcase: Showcase
    kept_budgets: tuple[int, ...] = ()

    def within(self, scope: Scope) -> Work:
        """Return the part of the work that is within a scope."""
        dropped = {point.budget for point in self.points} - {None, *scope.budgets, *self.kept_budgets}
        return Work(
            self.references,
            tuple(point for point in self.points if point.budget not in dropped),
            tuple(clip for clip in self.clips if clip.prompt_index < scope.num_prompts and clip.draw < scope.num_seeds),
            self.log,
            self.showcase,
            self.kept_budgets,
        )

    def missing(self, clip: BenchClip) -> list[BenchPoint]:
        """Return the points, including references, that are still to be run for a clip."""
        return [point for point in (*self.references, *self.points) if not self._is_done(clip, point)]

    def finished_clips(self) -> list[BenchClip]:
        """Return the clips whose videos have all been measured."""
        everything = (*self.references, *self.points)
        return [clip for clip in self.clips if all(self.log.get(clip, point) is not None for point in everything)]

    def _is_done(self, clip: BenchClip, point: BenchPoint) -> bool:
        row = self.log.get(clip, point)
        if row is None:
            return False
        return not self.showcase.has(clip, point) or (row.steps is not None and not self.showcase.lacks(clip, point))


def seconds_left(work: Work, costs: Costs, num_steps: int) -> float:
    """Estimate how long the rest of the work takes."""
    uncached, exact = work.references
    total = 0.0
    for clip in work.clips:
        to_run = work.missing(clip)
        if not to_run:
            continue
        # Both references are run at the beginning of a clip, to compare with; the exact one is measured there, too.
        to_run += [uncached] if exact in to_run else [uncached, exact]
        total += sum(costs.seconds(point.key, point.budget, point.num_steps or num_steps) for point in to_run)
    return total


class BenchRun:
    """Measures all missing videos of some work; every finished one is logged at once.

    Args:
        timesteps: returns the scheduler's times of a run for its number of steps (None: the config's own).
        finished: called after every video with the name of its policy.
    """

    def __init__(
        self,
        work: Work,
        sampler: Sampler,
        meter: Meter,
        costs: Costs,
        timesteps: Callable[[int | None], Sequence[float]],
        finished: Callable[[str], object],
    ) -> None:
        self._work = work
        self._sampler = sampler
        self._meter = meter
        self._costs = costs
        self._timesteps = timesteps
        self._finished = finished

    def run(self, deadline: float | None = None) -> bool:
        """Run what is missing; return False if it stopped between two clips because time was up.

        `deadline` is a time of `time.monotonic()`. Except for the first clip, none is begun that would take longer
        than the time left.
        """
        longest = 0.0
        for index, clip in enumerate(self._work.clips):
            missing = self._work.missing(clip)
            if not missing:
                continue
            started = time.monotonic()
            if deadline is not None and longest and started + longest > deadline:
                return False
            self._run_clip(clip, missing, index)
            longest = max(longest, time.monotonic() - started)
        return True

    def _run_clip(self, clip: BenchClip, missing: Sequence[BenchPoint], index: int) -> None:
        """Run both references, as all others need their frames, then what is missing.

        The run without reuse is timed again among the others: at the beginning of every clip, the machine would not be
        in the same state.
        """
        uncached, exact = self._work.references
        sampled = {point: self._sampler.sample(point, clip.clip) for point in (uncached, exact)}
        frames = {point.policy: video.frames for point, video in sampled.items()}
        if exact in missing:
            self._keep(clip, exact, sampled[exact], frames)
        for point in turned([point for point in (uncached, *self._work.points) if point in missing], index):
            self._keep(clip, point, self._sampler.sample(point, clip.clip), frames)

    def _keep(self, clip: BenchClip, point: BenchPoint, sampled: Sampled, references: Mapping[str, np.ndarray]) -> None:
        """Measure a video and log the result."""
        shown = self._work.showcase.has(clip, point)
        if shown:
            self._work.showcase.write(clip, point, sampled.frames, self._sampler.pipe.config.save_fps)
        quality = self._meter.quality(sampled.frames, clip.prompt, references_of(point, references))
        self._work.log.add(
            VideoRow(
                prompt=clip.prompt,
                seed=clip.seed,
                point=point.key,
                options=point.digest,
                values={**cost_values(point, sampled, self._costs), **quality},
                steps=step_records(sampled.trace, self._timesteps(point.num_steps)) if shown else None,
            )
        )
        self._finished(point.policy)


def turned(points: Sequence[BenchPoint], index: int) -> list[BenchPoint]:
    """Return the points in their order, starting at another one for every clip, so that drifts hit all alike."""
    if not points:
        return []
    start = round(index * _GOLDEN * len(points)) % len(points)
    return [*points[start:], *points[:start]]


FEWEST_PROMPTS = 4


@dataclass(frozen=True)
class Scope:
    """What is run: the first prompts, the first seeds, and these budgets."""

    num_prompts: int
    num_seeds: int
    budgets: tuple[int, ...]

    def without(self, wanted: Scope) -> str | None:
        """Return a sentence on how much of `wanted` is run; None if nothing is left out."""
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
    """Return the largest part of `wanted` that takes no more than the `available` seconds.

    Seeds are dropped first, then prompts down to four, then budgets, the outermost last; the smallest part is run in
    any case.
    """
    scopes = list(_smaller_ones(wanted))
    # Estimating a scope goes through all its clips, maybe thousands: bisection looks at few scopes.
    first = bisect_left(scopes, True, key=lambda scope: seconds(scope) <= available)
    return scopes[min(first, len(scopes) - 1)]


def _smaller_ones(wanted: Scope) -> Iterator[Scope]:
    """Yield `wanted` and its parts, each smaller than the one before."""
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
    """Return the index of the inner budget whose neighbors are nearest to each other; of two budgets, the larger one's.

    The outermost budgets decide how far curves reach, and between them values can be interpolated.
    """
    if len(budgets) == 2:
        return 1
    return min(range(1, len(budgets) - 1), key=lambda i: budgets[i + 1] - budgets[i - 1])


def _list(items: Sequence[str]) -> str:
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
