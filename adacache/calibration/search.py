"""The best places for a given number of computed steps, according to a simulation."""

from collections.abc import Iterable

from adacache.calibration.simulation import Simulation

Schedule = tuple[int, ...]


def best_schedules(simulation: Simulation, lengths: Iterable[int]) -> dict[int, Schedule]:
    """For every number of computed steps in `lengths` the schedule of the best estimated quality that was found.

    From all steps computed, one is taken away at a time: the one that costs least. After each removal single steps
    move to wherever they do most good, until no move helps. A schedule always begins with step 0.

    Raises: ValueError when a length lies outside of 1..num_steps.
    """
    wanted = set(lengths)
    if any(not 1 <= length <= simulation.num_steps for length in wanted):
        raise ValueError(f"a schedule computes 1 to {simulation.num_steps} steps, not {sorted(wanted)}")
    schedule = tuple(range(simulation.num_steps))
    found = {len(schedule): schedule} if len(schedule) in wanted else {}
    while len(schedule) > min(wanted, default=len(schedule)):
        schedule = max(_removals(schedule), key=simulation.quality)
        schedule = improve(simulation, schedule)
        if len(schedule) in wanted:
            found[len(schedule)] = schedule
    return found


def improve(simulation: Simulation, schedule: Schedule) -> Schedule:
    """Move single steps as long as the estimated quality grows."""
    quality = simulation.quality(schedule)
    while True:
        best = max(neighbors(schedule, simulation.num_steps), key=simulation.quality, default=schedule)
        if simulation.quality(best) <= quality + 1e-9:  # dB; rounding must not go round in circles
            return schedule
        schedule, quality = best, simulation.quality(best)


def neighbors(schedule: Schedule, num_steps: int) -> list[Schedule]:
    """All schedules in which one step other than the first lies elsewhere."""
    free = [step for step in range(1, num_steps) if step not in schedule]
    return [tuple(sorted((*rest, step))) for rest in _removals(schedule) for step in free]


def _removals(schedule: Schedule) -> list[Schedule]:
    return [(*schedule[:i], *schedule[i + 1 :]) for i in range(1, len(schedule))]
