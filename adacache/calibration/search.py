"""A search for the most promising lists of computed steps, on recorded targets alone."""

import math
from collections.abc import Sequence

import numpy as np

from adacache.calibration.multistep import NUM_OUTPUTS, Target

ROUNDING_DB = 1e-9  # smaller gains do not count, so that the search cannot go round in circles
Schedule = tuple[int, ...]


class MultistepSimulation:
    """Estimates the quality of lists of computed steps, from recorded targets alone.

    Along the target, the latents at the end of every gap are predicted from those at its beginning and the last
    outputs, each by its own least-squares fit. The effect of a gap's error on the end of the run is assumed to fall
    evenly, in logarithms, from `early` times as much at the first step. The figures rank lists; they do not predict
    decibels.
    """

    def __init__(self, targets: Sequence[Target], num_steps: int, early: float) -> None:
        self.num_steps = num_steps
        sketches = np.concatenate([target.sketch for target in targets]).astype(np.float64)
        self._grams = sketches @ sketches.transpose(0, 2, 1)  # of each clip
        self._gram = self._grams.sum(0)
        self._halves = (len(self._gram) - 1) // num_steps - 1
        self._restarts = sorted(targets[0].restarts)
        self._gains = np.geomspace(early, 1, num_steps)
        self._errors: dict[tuple[int, ...], np.ndarray] = {}

    def quality(self, computed_steps: Sequence[int]) -> float:
        """Return the estimated signal-to-noise ratio of the final latents in dB; `computed_steps` ascend from 0.

        It is minus infinity if a step from which another model runs is not computed.
        """
        ends = [*computed_steps[1:], self.num_steps]
        error = np.zeros(len(self._grams))
        for place, end in enumerate(ends):
            history = computed_steps[max(0, place - NUM_OUTPUTS + 1) : place + 1]
            if self._restarts:
                if any(history[-1] < restart < end for restart in self._restarts):
                    return -math.inf
                begin = max((restart for restart in self._restarts if restart <= history[-1]), default=0)
                history = [step for step in history if step >= begin]
            error += self._kept_error(tuple(history), end)
        return float(np.mean(-10 * np.log10(np.maximum(error, 1e-12))))

    def _kept_error(self, history: tuple[int, ...], end: int) -> np.ndarray:
        key = (*history, end)
        if key not in self._errors:
            self._errors[key] = self._error(history, end)
        return self._errors[key]

    def _error(self, history: tuple[int, ...], end: int) -> np.ndarray:
        """Return the squared error of each clip's latents at `end`, as a share of their power, times its gain."""
        step, first = history[-1], self.num_steps + 1
        known = [step, *(first + past * self._halves + half for past in history for half in range(self._halves))]
        matrix, vector = self._gram[np.ix_(known, known)], self._gram[known, end]
        strength = 1e-9 * np.trace(matrix) / len(matrix)
        weights = np.linalg.solve(matrix + strength * np.eye(len(matrix)), vector)
        places, left = [*known, end], np.array([*weights, -1.0])
        errors = np.einsum("i,bij,j->b", left, self._grams[:, places][:, :, places], left)
        return np.maximum(errors, 0) / self._grams[:, end, end] * self._gains[step]


def best_schedules(simulation: MultistepSimulation, lengths: Sequence[int]) -> dict[int, Schedule]:
    """Return for every number of computed steps in `lengths` the best schedule found, by estimated quality.

    From all steps computed, the step that costs least is removed, one at a time; then a step is added where it helps
    most, one at a time; and so on until nothing improves. On the way, steps move to wherever that helps. A schedule
    always begins with step 0.
    """
    steps, shortest = simulation.num_steps, min(lengths)
    # Back and forth: one way alone would pass a bad choice on to all schedules that follow.
    fewer = [(length + 1, length) for length in range(steps - 1, shortest - 1, -1)]
    more = [(length - 1, length) for length in range(shortest + 1, steps)]
    found = {steps: tuple(range(steps))}
    tried: set[tuple[Schedule, int]] = set()  # from which schedule to which length
    better = True
    while better:
        better = False
        for origin, length in fewer + more:
            if (found[origin], length) in tried:
                continue
            tried.add((found[origin], length))
            changed = _removals(found[origin]) if length < origin else _additions(found[origin], steps)
            schedule = improve(simulation, max(changed, key=simulation.quality))
            if length not in found or simulation.quality(schedule) > simulation.quality(found[length]) + ROUNDING_DB:
                found[length], better = schedule, True
    return {length: found[length] for length in lengths}


def improve(simulation: MultistepSimulation, schedule: Schedule) -> Schedule:
    """Move single steps, and consecutive ones together, as long as the estimated quality grows."""
    quality = simulation.quality(schedule)
    while True:
        moved = neighbors(schedule, simulation.num_steps) + _shifts(schedule, simulation.num_steps)
        best = max(moved, key=simulation.quality, default=schedule)
        if simulation.quality(best) <= quality + ROUNDING_DB:
            return schedule
        schedule, quality = best, simulation.quality(best)


def neighbors(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """Return all schedules in which one step other than the first lies elsewhere."""
    return [moved for rest in _removals(schedule) for moved in _additions(rest, num_steps) if moved != schedule]


def _removals(schedule: Schedule) -> list[Schedule]:
    """Return all schedules with one step fewer; the first step stays."""
    return [(*schedule[:i], *schedule[i + 1 :]) for i in range(1, len(schedule))]


def _additions(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """Return all schedules with one step more."""
    return [tuple(sorted((*schedule, step))) for step in range(1, num_steps) if step not in schedule]


def _shifts(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """Return all schedules in which several consecutive steps, not the first, lie one step earlier or later."""
    shifted = []
    for start in range(1, len(schedule)):
        for end in range(start + 2, len(schedule) + 1):
            before, after = schedule[start - 1], (*schedule, num_steps)[end]
            for way in (-1, 1):
                block = [step + way for step in schedule[start:end]]
                if before < block[0] and block[-1] < after:
                    shifted.append((*schedule[:start], *block, *schedule[end:]))
    return shifted
