"""The simulation against the bridge that really runs, on residuals that do not react to their errors."""

import numpy as np
import pytest
import torch

from adacache.bridge import BridgeConfig
from adacache.calibration.recording import Recording, gram_of_sketches
from adacache.calibration.simulation import Simulation
from adacache.residuals import ResidualHistory

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
