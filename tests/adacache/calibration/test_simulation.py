"""The simulation against the bridge that really runs, and the search against all schedules there are."""

from itertools import combinations

import numpy as np
import pytest
import torch

from adacache.calibration.simulation import (
    Recording,
    Simulation,
    best_schedules,
    gains_from_probes,
    gram_of_sketches,
    improve,
    neighbors,
)
from adacache.options import BridgeConfig
from adacache.reuse.stack import ResidualHistory


def test_the_gram_holds_inner_products_per_element():
    sketches = np.array([[[1, 2], [3, 4]], [[0, 0], [2, 0]]], np.float32)  # two videos of two steps, two elements
    assert gram_of_sketches(sketches).tolist() == [[[2.5, 5.5], [5.5, 12.5]], [[0, 0], [0, 2]]]


def test_the_gram_is_summed_in_float64():
    # Two residuals that differ in the last bits of float32 only: their distance is what errors are made of.
    one = np.full(100_000, 1000, np.float32)
    other = one + np.float32(2**-10)
    gram = gram_of_sketches(np.stack([one, other])[None])[0]
    assert gram[0, 0] - 2 * gram[0, 1] + gram[1, 1] == pytest.approx(2.0**-20, rel=1e-3)


def test_gains_are_effects_over_errors_and_geometric_in_between():
    effects = np.array([[4.0, 3.0], [32.0, 3.0]])  # probes at steps 2 and 4, two videos
    errors = np.array([[1.0, 3.0], [2.0, 30.0]])
    gains = gains_from_probes([2, 4], effects, errors, num_steps=6)
    assert gains[0] == pytest.approx([4, 4, 4, 8, 16, 16])
    assert gains[1] == pytest.approx([1, 1, 1, 10**-0.5, 0.1, 0.1])


def test_a_probe_without_error_or_effect_gives_a_finite_gain():
    gains = gains_from_probes([1, 2], np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), num_steps=3)
    assert gains[0] == pytest.approx([1, 1, 1])


def test_the_number_of_steps_is_that_of_the_gains():
    assert Recording(np.zeros((2, 5, 5)), np.ones((2, 5)), np.ones(2)).num_steps == 5


@pytest.mark.parametrize(
    ("gram", "power"),
    [(np.zeros((2, 5, 4)), np.ones(2)), (np.zeros((1, 5, 5)), np.ones(2)), (np.zeros((2, 5, 5)), np.ones(3))],
)
def test_shapes_that_do_not_belong_together_are_refused(gram, power):
    with pytest.raises(ValueError, match="do not belong to 2 videos of 5 steps"):
        Recording(gram, np.ones((2, 5)), power)


@pytest.mark.parametrize("place", range(3))
def test_overflown_runs_are_refused(place):
    values = [np.zeros((1, 3, 3)), np.ones((1, 3)), np.ones(1)]
    values[place].flat[0] = np.inf
    with pytest.raises(ValueError, match="not finite; sample with dtype bf16 or fp32"):
        Recording(*values)


STEPS, ELEMENTS = 16, 40
BRIDGES = {
    "hold": BridgeConfig(),
    "linear": BridgeConfig("linear", weight=0.3),
    "linear, far": BridgeConfig("linear", weight=0.8, max_ratio=3.0),
    "linear, near": BridgeConfig("linear", weight=1.0, max_ratio=0.5),
    "fitted": BridgeConfig("fitted", weight=0.5),
    "fitted, far": BridgeConfig("fitted", weight=0.2, max_ratio=2.0),
}
SCHEDULES = [
    (0,),
    (0, 5),
    (0, 15),
    (0, 1, 2, 3),
    (0, 3, 4, 9),
    (0, 1, 7, 8, 9, 15),
    (0, 2, 3, 6, 10, 11),
    (0, 1, 2, 4, 5, 7, 9, 10, 13, 14),
]
KINDS = ("smooth", "rough")


def sequences(kind: str, videos: int = 1) -> np.ndarray:
    """Residuals (videos, steps, elements): a walk that keeps its direction for a while, or independent draws."""
    draws = np.random.default_rng(len(kind)).standard_normal((videos, STEPS, ELEMENTS))
    if kind == "rough":
        return draws
    for step in range(1, STEPS):
        draws[:, step] = 0.7 * draws[:, step - 1] + 0.5 * draws[:, step]
    return draws.cumsum(axis=1)


def recording(residuals: np.ndarray, gains: np.ndarray | None = None, power: np.ndarray | None = None) -> Recording:
    videos, steps, _ = residuals.shape
    return Recording(
        gram_of_sketches(residuals),
        np.ones((videos, steps)) if gains is None else gains,
        np.ones(videos) if power is None else power,
    )


def run(residuals: np.ndarray, gains: np.ndarray, bridge: BridgeConfig, schedule: tuple[int, ...]) -> list[float]:
    """What a real history does to one video (steps, elements): the squared effect of every gap, per element."""
    history = ResidualHistory(bridge)
    effects = []
    for step, residual in enumerate(torch.from_numpy(residuals)):
        if step in schedule:
            history.make_room()
            history.store(step, residual)
            effects.append(torch.zeros_like(residual))
        else:
            effects[-1] += gains[step] ** 0.5 * (history.add(step, torch.zeros_like(residual)) - residual)
    return [float(effect.square().mean()) for effect in effects]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES.keys())
def test_errors_are_those_of_the_bridge_that_really_runs(bridge, schedule, kind):
    residuals = sequences(kind)
    expected = sum(run(residuals[0], np.ones(STEPS), bridge, schedule))
    # Against a power of 1 the ratio in dB gives the error away.
    estimated = 10 ** (-Simulation(recording(residuals), bridge).quality(schedule) / 10)
    assert estimated == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("bridge", BRIDGES.values(), ids=BRIDGES.keys())
def test_every_gap_alone_has_the_effect_it_has_in_the_run(bridge):
    residuals, schedule = sequences("smooth"), (0, 3, 4, 7, 11)
    simulation = Simulation(recording(residuals), bridge)
    inside = run(residuals[0], np.ones(STEPS), bridge, schedule)
    for index, (start, end) in enumerate(zip(schedule, (*schedule[1:], STEPS), strict=True)):
        # The same up to the gap's end, every step computed from there on; what came before is known from the run.
        alone = (*schedule[: index + 1], *range(end, STEPS))
        total = 10 ** (-simulation.quality(alone) / 10)
        assert total - sum(inside[:index]) == pytest.approx(inside[index], rel=1e-3, abs=1e-6), (start, end)


def test_the_fit_is_put_to_the_test_by_these_residuals():
    weights = {kind: [] for kind in KINDS}
    for kind in KINDS:
        for schedule in SCHEDULES:
            history = ResidualHistory(BRIDGES["fitted"])
            for step in schedule:
                history.store(step, torch.from_numpy(sequences(kind)[0, step]))
            weights[kind] += history.read_weights()[2:]
    assert len([weight for weight in weights["smooth"] if 0.1 < weight < 0.9]) > 10
    assert 0 in weights["rough"]


def test_gains_weigh_the_steps_and_videos_are_averaged_in_decibels():
    rng = np.random.default_rng(3)
    residuals, gains, power = sequences("smooth", 3), rng.uniform(0.1, 10, (3, STEPS)), np.array([1.0, 5.0, 0.2])
    for bridge in BRIDGES.values():
        simulation = Simulation(recording(residuals, gains, power), bridge)
        for schedule in SCHEDULES:
            errors = [sum(run(*video, bridge, schedule)) for video in zip(residuals, gains, strict=True)]
            expected = np.mean([10 * np.log10(p / error) for p, error in zip(power, errors, strict=True)])
            assert simulation.quality(schedule) == pytest.approx(expected, abs=1e-3)


def of_numbers(numbers: list[float], power: float) -> Simulation:
    """A video whose residuals have one element."""
    return Simulation(recording(np.array(numbers)[None, :, None], power=np.array([power])), BridgeConfig())


def test_errors_of_one_gap_add_up_before_they_are_squared():
    # Twice an error of 1 in the same direction: 4, not 2.
    assert of_numbers([0, 1, 1], power=4).quality((0,)) == pytest.approx(0)
    # And against each other they cancel.
    assert of_numbers([0, 1, -1], power=4).quality((0,)) == 80


def test_errors_of_different_gaps_are_independent():
    # Errors of -1 and of 1, or of -1 twice: a squared effect of 2 either way.
    assert of_numbers([0, 1, 0, -1], power=2).quality((0, 2)) == pytest.approx(0)
    assert of_numbers([0, 1, 0, 1], power=2).quality((0, 2)) == pytest.approx(0)


def test_no_error_counts_as_80_decibels():
    simulation = of_numbers([0, 1, 1, 1, 5], power=3)
    assert simulation.quality((0, 1, 2, 3, 4)) == 80
    assert simulation.quality((0, 1, 4)) == 80
    assert simulation.quality((0, 1, 3)) < 0


SEARCHED_STEPS = 9


def simulation(seed: int, kind: str = "fitted", steps: int = SEARCHED_STEPS) -> Simulation:
    """Two videos whose residuals drift at a changing pace, and gains that fall towards the end."""
    rng = np.random.default_rng(seed)
    paces = rng.uniform(0.1, 2, (2, steps, 1))
    residuals = (paces * rng.standard_normal((2, steps, 20))).cumsum(axis=1)
    gains = np.exp(-rng.uniform(0, 0.5) * np.arange(steps)) * np.ones((2, 1))
    return Simulation(Recording(gram_of_sketches(residuals), gains, np.ones(2)), BridgeConfig(kind, weight=0.5))


def all_schedules(length: int, steps: int = SEARCHED_STEPS) -> list[tuple[int, ...]]:
    return [(0, *rest) for rest in combinations(range(1, steps), length - 1)]


# Among them cases that taking steps away alone, or moving single steps, gets wrong.
@pytest.mark.parametrize("seed", [0, 2, 4, 8, 9, 14, 16, 18])
@pytest.mark.parametrize("kind", ["hold", "fitted"])
def test_the_best_of_all_schedules_is_found(seed, kind):
    subject = simulation(seed, kind)
    found = best_schedules(subject, range(1, SEARCHED_STEPS + 1))
    assert sorted(found) == list(range(1, SEARCHED_STEPS + 1))
    for length, schedule in found.items():
        assert len(schedule) == length
        assert schedule[0] == 0
        assert subject.quality(schedule) == pytest.approx(max(map(subject.quality, all_schedules(length))))


def test_no_move_of_a_step_improves_what_was_found():
    subject = simulation(9, steps=20)
    for length, schedule in best_schedules(subject, [4, 7, 12]).items():
        assert len(neighbors(schedule, 20)) == (length - 1) * (20 - length)
        assert max(map(subject.quality, neighbors(schedule, 20))) <= subject.quality(schedule) + 1e-9


def simulation_of(numbers: list[float]) -> Simulation:
    """A video whose residuals have one element, held between computed steps."""
    residuals = np.array(numbers)[None, :, None]
    return Simulation(Recording(gram_of_sketches(residuals), np.ones((1, len(numbers))), np.ones(1)), BridgeConfig())


def test_improving_moves_steps_to_where_residuals_jump():
    assert improve(simulation_of([0, 0, 1, 1, 1, 1, 5, 5, 5]), (0, 7, 8)) == (0, 2, 6)


def test_a_schedule_that_misses_the_jumps_by_a_step_moves_as_a_whole():
    numbers = [0, 10, 10, -10, -10, 10, 10, -10, -10, 10]
    assert improve(simulation_of(numbers), (0, 2, 4, 6, 8)) == (0, 1, 3, 5, 7)


def test_neighbors_differ_in_one_step_other_than_the_first():
    assert neighbors((0, 2), 4) == [(0, 1), (0, 3)]
    assert neighbors((0,), 4) == []
    assert neighbors((0, 1, 2), 3) == []


def test_only_the_lengths_that_are_asked_for_are_returned():
    assert set(best_schedules(simulation(0), [3, 7])) == {3, 7}
    assert best_schedules(simulation(0), [SEARCHED_STEPS]) == {SEARCHED_STEPS: tuple(range(SEARCHED_STEPS))}
    assert best_schedules(simulation(0), []) == {}
    assert list(best_schedules(simulation(0, steps=2), [2, 1]).items()) == [(1, (0,)), (2, (0, 1))]


@pytest.mark.parametrize("lengths", [[0], [3, SEARCHED_STEPS + 1], [-1]])
def test_lengths_that_no_run_has_are_refused(lengths):
    with pytest.raises(ValueError, match=f"a schedule computes 1 to {SEARCHED_STEPS} steps, not"):
        best_schedules(simulation(0), lengths)
