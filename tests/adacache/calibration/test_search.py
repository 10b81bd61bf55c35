from itertools import combinations

import numpy as np
import pytest

from adacache.bridge import BridgeConfig
from adacache.calibration.recording import Recording, gram_of_sketches
from adacache.calibration.search import best_schedules, improve, neighbors
from adacache.calibration.simulation import Simulation

STEPS = 9


def simulation(seed: int, kind: str = "fitted", steps: int = STEPS) -> Simulation:
    """Two videos whose residuals drift at a changing pace, and gains that fall towards the end."""
    rng = np.random.default_rng(seed)
    paces = rng.uniform(0.1, 2, (2, steps, 1))
    residuals = (paces * rng.standard_normal((2, steps, 20))).cumsum(axis=1)
    gains = np.exp(-rng.uniform(0, 0.5) * np.arange(steps)) * np.ones((2, 1))
    return Simulation(Recording(gram_of_sketches(residuals), gains, np.ones(2)), BridgeConfig(kind, weight=0.5))


def all_schedules(length: int, steps: int = STEPS) -> list[tuple[int, ...]]:
    return [(0, *rest) for rest in combinations(range(1, steps), length - 1)]


# Among them cases that taking steps away alone, or moving single steps, gets wrong.
@pytest.mark.parametrize("seed", [0, 2, 4, 8, 9, 14, 16, 18])
@pytest.mark.parametrize("kind", ["hold", "fitted"])
def test_the_best_of_all_schedules_is_found(seed, kind):
    subject = simulation(seed, kind)
    found = best_schedules(subject, range(1, STEPS + 1))
    assert sorted(found) == list(range(1, STEPS + 1))
    for length, schedule in found.items():
        assert len(schedule) == length
        assert schedule[0] == 0
        assert subject.quality(schedule) == pytest.approx(max(map(subject.quality, all_schedules(length))))


def test_no_move_of_a_step_improves_what_was_found():
    subject = simulation(9, steps=20)
    for length, schedule in best_schedules(subject, [4, 7, 12]).items():
        assert len(neighbors(schedule, 20)) == (length - 1) * (20 - length)
        assert max(map(subject.quality, neighbors(schedule, 20))) <= subject.quality(schedule) + 1e-9


def of_numbers(numbers: list[float]) -> Simulation:
    """A video whose residuals have one element, held between computed steps."""
    residuals = np.array(numbers)[None, :, None]
    return Simulation(Recording(gram_of_sketches(residuals), np.ones((1, len(numbers))), np.ones(1)), BridgeConfig())


def test_improving_moves_steps_to_where_residuals_jump():
    assert improve(of_numbers([0, 0, 1, 1, 1, 1, 5, 5, 5]), (0, 7, 8)) == (0, 2, 6)


def test_a_schedule_that_misses_the_jumps_by_a_step_moves_as_a_whole():
    numbers = [0, 10, 10, -10, -10, 10, 10, -10, -10, 10]
    assert improve(of_numbers(numbers), (0, 2, 4, 6, 8)) == (0, 1, 3, 5, 7)


def test_neighbors_differ_in_one_step_other_than_the_first():
    assert neighbors((0, 2), 4) == [(0, 1), (0, 3)]
    assert neighbors((0,), 4) == []
    assert neighbors((0, 1, 2), 3) == []


def test_only_the_lengths_that_are_asked_for_are_returned():
    assert set(best_schedules(simulation(0), [3, 7])) == {3, 7}
    assert best_schedules(simulation(0), [STEPS]) == {STEPS: tuple(range(STEPS))}
    assert best_schedules(simulation(0), []) == {}
    assert list(best_schedules(simulation(0, steps=2), [2, 1]).items()) == [(1, (0,)), (2, (0, 1))]


@pytest.mark.parametrize("lengths", [[0], [3, STEPS + 1], [-1]])
def test_lengths_that_no_run_has_are_refused(lengths):
    with pytest.raises(ValueError, match=f"a schedule computes 1 to {STEPS} steps, not"):
        best_schedules(simulation(0), lengths)
