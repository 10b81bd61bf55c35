"""A search for the most promising lists of computed steps."""

from collections.abc import Iterable, Sequence
from typing import Protocol

ROUNDING_DB = 1e-9  # smaller gains do not count, so that the search cannot go round in circles
Schedule = tuple[int, ...]


class Simulation(Protocol):
    """Estimates the quality of lists of computed steps, without the model.

    Attributes:
        num_steps: steps of a run.
    """

    num_steps: int

    def quality(self, computed_steps: Sequence[int]) -> float:
        """Return the estimated quality, the higher the better; `computed_steps` ascend from 0."""
        ...


def best_schedules(simulation: Simulation, lengths: Iterable[int]) -> dict[int, Schedule]:
    """Return for every number of computed steps in `lengths` the best schedule found, by estimated quality.

    From all steps computed, the step that costs least is removed, one at a time; then a step is added where it helps
    most, one at a time; and so on until nothing improves. On the way, steps move to wherever that helps. A schedule
    always begins with step 0.

    Raises:
        ValueError: a length lies outside of 1..num_steps.
    """
    wanted, steps = set(lengths), simulation.num_steps
    if any(not 1 <= length <= steps for length in wanted):
        raise ValueError(f"a schedule computes 1 to {steps} steps, not {sorted(wanted)}")
    shortest = min(wanted, default=steps)
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
