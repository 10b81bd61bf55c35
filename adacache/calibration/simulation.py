"""What schedules and bridges would do to the final latents, estimated from recorded runs without the model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adacache.options import BridgeConfig

SIMULATED = ("hold", "linear", "fitted")
FLOOR_DB = 80.0  # nothing is told apart beyond
ROUNDING_DB = 1e-9  # less is no gain: the search must not go round in circles
Schedule = tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """Uncached runs of P videos with N steps each.

    Attributes:
        gram: (P, N, N) float64; entry [p, i, j] is the inner product of the stack's residuals at steps i and j,
            per element. Sketches of the residuals give a good estimate of it.
        gains: (P, N) mean squared change of the final latents per mean squared error of the residual at that step.
        power: (P,) mean square of the final latents.

    Raises:
        ValueError: the shapes do not belong together, or a number is not finite.
    """

    gram: np.ndarray
    gains: np.ndarray
    power: np.ndarray

    def __post_init__(self) -> None:
        videos, steps = self.gains.shape
        if self.gram.shape != (videos, steps, steps) or self.power.shape != (videos,):
            raise ValueError(
                f"gram {self.gram.shape} and power {self.power.shape} do not belong to {videos} videos of {steps} steps"
            )
        if not all(np.isfinite(values).all() for values in (self.gram, self.gains, self.power)):
            raise ValueError("the recorded runs hold numbers that are not finite; sample with dtype bf16 or fp32")

    @property
    def num_steps(self) -> int:
        """Sampling steps of the runs."""
        return self.gains.shape[1]


def gram_of_sketches(sketches: np.ndarray) -> np.ndarray:
    """Inner products per element, (P, N, N), of residuals of which M elements were kept, (P, N, M)."""
    wide = sketches.astype(np.float64)
    return wide @ wide.transpose(0, 2, 1) / wide.shape[2]


def gains_from_probes(steps: Sequence[int], effects: np.ndarray, errors: np.ndarray, num_steps: int) -> np.ndarray:
    """Gains of all steps (P, N) from probes of a few.

    A probe reuses the residual of step i - 1 at step i and nothing else. Between probed steps the logarithm is
    interpolated, beyond them the nearest one holds.

    Args:
        steps: the K probed steps, ascending.
        effects: (K, P) mean squared change of the final latents.
        errors: (K, P) mean squared difference of the residuals at i and i - 1.
    """
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(effects, tiny)) - np.log(np.maximum(errors, tiny))
    return np.exp([np.interp(np.arange(num_steps), steps, video) for video in logs.T])


class Simulation:
    """Estimated quality of schedules under one bridge.

    On the recorded trajectory the error of every reused step is known: the bridged residual minus the one that was
    computed. Errors between two computed steps point the same way and add up; those of different gaps are taken as
    independent. What an error does to the end of the run is its step's gain. How errors change the later trajectory
    is left out, so the figures rank schedules; they do not promise decibels.

    Raises: ValueError for a bridge that is not simulated.
    """

    def __init__(self, recording: Recording, bridge: BridgeConfig) -> None:
        if bridge.kind not in SIMULATED:
            raise ValueError(
                f"schedules under the bridge '{bridge.kind}' cannot be searched; take {', '.join(SIMULATED)}"
            )
        self.num_steps = recording.num_steps
        self._gram = recording.gram
        self._amplitudes = np.sqrt(recording.gains)
        self._power = recording.power
        self._bridge = bridge
        self._gaps: dict[tuple[int, ...], np.ndarray] = {}

    def quality(self, computed_steps: Sequence[int]) -> float:
        """Estimated signal-to-noise ratio of the final latents in dB, mean over videos.

        `computed_steps` ascend from 0.
        """
        ends = [*computed_steps[1:], self.num_steps]
        # At most three computed steps decide what a gap is bridged with.
        gaps = [self._gap(tuple(computed_steps[max(0, i - 2) : i + 1]), end) for i, end in enumerate(ends)]
        error = np.sum(gaps, axis=0)
        return float(np.mean(10 * np.log10(self._power / np.maximum(error, self._power * 10 ** (-FLOOR_DB / 10)))))

    def _gap(self, history: tuple[int, ...], end: int) -> np.ndarray:
        """Squared effect (P,) of the reused steps between the last computed step of `history` and `end`."""
        key = (*history, end)
        if key not in self._gaps:
            self._gaps[key] = self._gap_effect(history, end)
        return self._gaps[key]

    def _gap_effect(self, history: tuple[int, ...], end: int) -> np.ndarray:
        last = history[-1]
        if end == last + 1:
            return np.zeros(len(self._power))
        weight = self._weight(history)
        total = np.zeros((len(self._power), self.num_steps))  # in coefficients of the computed residuals
        for step in range(last + 1, end):
            total[:, step] -= self._amplitudes[:, step]
            total[:, last] += self._amplitudes[:, step]
            if len(history) > 1:
                slope = weight * self._ratio(step - last, last - history[-2]) * self._amplitudes[:, step]
                total[:, last] += slope
                total[:, history[-2]] -= slope
        return np.maximum(self._inner(total, total), 0)

    def _weight(self, history: tuple[int, ...]) -> np.ndarray | float:
        """The bridge's weight after the last step of `history`, as `ResidualHistory` would find it."""
        if self._bridge.kind == "hold":
            return 0.0
        if self._bridge.kind == "linear" or len(history) < 3:
            return self._bridge.weight
        first, middle, last = history
        predicted, actual = (np.zeros((len(self._power), self.num_steps)) for _ in range(2))
        ratio = self._ratio(last - middle, middle - first)
        predicted[:, middle], predicted[:, first] = ratio, -ratio
        actual[:, last], actual[:, middle] = 1, -1
        power = self._inner(predicted, predicted)
        share = np.divide(self._inner(predicted, actual), power, out=np.zeros_like(power), where=power > 0)
        return share.clip(0, 1)

    def _ratio(self, gap: int, previous_gap: int) -> float:
        return min(gap / previous_gap, self._bridge.max_ratio)

    def _inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("pi,pij,pj->p", a, self._gram, b)


def best_schedules(simulation: Simulation, lengths: Iterable[int]) -> dict[int, Schedule]:
    """For every number of computed steps in `lengths` the schedule of the best estimated quality that was found.

    From all steps computed, one is taken away at a time, the one that costs least; then one is added at a time, where
    it does most good, and so forth until nothing gets better. On the way steps move to wherever that helps. A schedule
    always begins with step 0.

    Raises: ValueError when a length lies outside of 1..num_steps.
    """
    wanted, steps = set(lengths), simulation.num_steps
    if any(not 1 <= length <= steps for length in wanted):
        raise ValueError(f"a schedule computes 1 to {steps} steps, not {sorted(wanted)}")
    shortest = min(wanted, default=steps)
    # Back and forth: one way alone would hand a bad choice on to all schedules that come after.
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
    return {length: found[length] for length in sorted(wanted)}


def improve(simulation: Simulation, schedule: Schedule) -> Schedule:
    """Move single steps, and consecutive ones together, as long as the estimated quality grows."""
    quality = simulation.quality(schedule)
    while True:
        moved = neighbors(schedule, simulation.num_steps) + _shifts(schedule, simulation.num_steps)
        best = max(moved, key=simulation.quality, default=schedule)
        if simulation.quality(best) <= quality + ROUNDING_DB:
            return schedule
        schedule, quality = best, simulation.quality(best)


def neighbors(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """All schedules in which one step other than the first lies elsewhere."""
    return [moved for rest in _removals(schedule) for moved in _additions(rest, num_steps) if moved != schedule]


def _removals(schedule: Schedule) -> list[Schedule]:
    """All schedules with one step less, but for the first."""
    return [(*schedule[:i], *schedule[i + 1 :]) for i in range(1, len(schedule))]


def _additions(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """All schedules with one step more."""
    return [tuple(sorted((*schedule, step))) for step in range(1, num_steps) if step not in schedule]


def _shifts(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """All schedules in which several consecutive entries, not the first, lie one step earlier or later."""
    shifted = []
    for start in range(1, len(schedule)):
        for end in range(start + 2, len(schedule) + 1):
            before, after = schedule[start - 1], (*schedule, num_steps)[end]
            for way in (-1, 1):
                block = [step + way for step in schedule[start:end]]
                if before < block[0] and block[-1] < after:
                    shifted.append((*schedule[:start], *block, *schedule[end:]))
    return shifted
