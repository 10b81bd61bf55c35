"""Targets against the fixture's curve: 20, 25, 30, 35, 40 dB with 4 to 8 of 10 steps, reuse at a tenth."""

import logging
from dataclasses import replace

import pytest

from adacache.calibration.target import Target, read_target


def count(target: Target, calibration, num_steps: int = 10) -> int:
    times = [1000 * (1 - step / num_steps) for step in range(num_steps)]
    schedule = target.resolve(calibration, times)
    assert schedule.num_sampling_steps == num_steps
    return len(schedule.computed_steps)


@pytest.mark.parametrize("wanted", [2, 4, 7, 10])
def test_a_number_of_steps_is_taken_at_its_word(calibration, wanted):
    assert count(Target("max_steps_computed", wanted), calibration) == wanted


def test_a_measured_number_of_steps_gives_the_calibrated_schedule(calibration):
    schedule = Target("max_steps_computed", 6).resolve(calibration, calibration.timesteps)
    assert schedule.computed_steps == (0, 1, 2, 4, 6, 8)
    assert schedule.bridge == calibration.bridge


@pytest.mark.parametrize(
    ("speedup", "wanted"),
    # Of 10 steps, c computed ones make 10 / (1 + 0.9 c): 1.22 with 8, 2.17 with 4, 1.82 with 5, 3.57 with 2.
    [(1, 10), (1.2, 8), (1.3, 7), (1.8, 5), (1.9, 4), (2.17, 4), (2.2, 3), (3.5, 2)],
)
def test_a_speedup_is_reached_with_as_many_steps_as_possible(calibration, speedup, wanted):
    assert count(Target("speedup", speedup), calibration) == wanted


@pytest.mark.parametrize(("psnr", "wanted"), [(10, 4), (20, 4), (20.1, 5), (25, 5), (34, 7), (40, 8)])
def test_a_quality_is_reached_with_as_few_steps_as_possible(calibration, psnr, wanted):
    assert count(Target("min_psnr", psnr), calibration) == wanted


@pytest.mark.parametrize(
    ("target", "num_steps", "message"),
    [
        (Target("max_steps_computed", 11), 10, "max_steps_computed is 11, but a run of 10 steps computes 2 to 10"),
        (Target("max_steps_computed", 1), 10, "computes 2 to 10"),
        (Target("max_steps_computed", 8), 7, "computes 2 to 7"),
        (Target("speedup", 3.6), 10, r"speedup 3.6 cannot be reached: 2 computed steps of 10 give 3\.6x"),
        (Target("speedup", 7), 20, r"2 computed steps of 20 give 5\.3x"),  # 20 / (2 + 18 * 0.1)
        (Target("min_psnr", 40.1), 10, r"measured up to 40\.0 dB, with 8 computed steps of this run's 10"),
        # A shorter run cannot compute the 8 steps that reach 40 dB.
        (Target("min_psnr", 31), 6, r"measured up to 30\.0 dB, with 6 computed steps of this run's 6"),
        (Target("min_psnr", 10), 3, "for a run of 3 steps: the calibration measured 4 to 8 computed ones"),
    ],
)
def test_what_cannot_be_reached_is_refused_with_what_can(calibration, target, num_steps, message):
    with pytest.raises(ValueError, match=message):
        count(target, calibration, num_steps)


def test_the_best_quality_is_named_where_it_was_measured(calibration):
    points = list(calibration.points)
    points[2] = replace(points[2], psnr=41.0)
    with pytest.raises(ValueError, match=r"up to 41\.0 dB, with 6 computed"):
        count(Target("min_psnr", 42), replace(calibration, points=tuple(points)))


def test_with_coefficients_the_fitted_counts_are_all_there_are(calibration):
    points = [replace(p, coefficients=(((1.0,),),) * len(p.computed_steps)) for p in calibration.points if p.psnr]
    combining = replace(calibration, points=tuple(points))  # 4, 6 and 8
    assert count(Target("max_steps_computed", 7), combining) == 6
    assert count(Target("max_steps_computed", 10), combining) == 10
    assert count(Target("speedup", 1.5), combining) == 6
    assert count(Target("min_psnr", 21), combining) == 6
    # Where there are no coefficients, lists are stretched or carried over, and residuals stand in.
    assert count(Target("max_steps_computed", 3), combining) == 3
    assert count(Target("speedup", 3), combining) == 2
    assert count(Target("max_steps_computed", 7), combining, num_steps=20) == 7


def test_nothing_is_warned_of_within_what_was_measured(calibration, caplog):
    for target in (Target("max_steps_computed", 4), Target("speedup", 2), Target("min_psnr", 33)):
        count(target, calibration)
    count(Target("max_steps_computed", 10), calibration)  # every step computed is exact
    assert caplog.messages == []


@pytest.mark.parametrize(("wanted", "warned"), [(3, True), (4, False), (8, False), (9, True), (10, False)])
def test_a_number_of_steps_that_was_not_measured_is_warned_of(calibration, caplog, wanted, warned):
    with caplog.at_level(logging.WARNING):
        count(Target("max_steps_computed", wanted), calibration)
    expected = f"{wanted} computed steps lie outside the 4 to 8 that were measured"
    assert [message.startswith(expected) for message in caplog.messages] == [True] * warned


def test_a_run_of_another_number_of_steps_is_warned_of(calibration, caplog):
    with caplog.at_level(logging.WARNING):
        assert count(Target("speedup", 2), calibration, num_steps=20) == 8  # 20 / (8 + 12 * 0.1) = 2.17
    [message] = caplog.messages
    assert "measured with 10 sampling steps, but this run has 20" in message
    assert "extrapolation" in message


def test_a_run_that_computes_every_step_has_nothing_to_warn_of(calibration, caplog):
    assert count(Target("speedup", 1), calibration, num_steps=7) == 7
    assert not caplog.messages


def test_a_run_at_other_times_is_warned_of(calibration, caplog):
    times = [1.1 * time for time in calibration.timesteps]
    assert calibration.fits(calibration.timesteps) and not calibration.fits(times)
    Target("speedup", 2).resolve(calibration, times)
    [message] = caplog.messages
    assert "with 10 steps at other times than this run's" in message and "extrapolation" in message


def test_one_target_is_read_from_the_entries_of_a_config():
    nothing = {"speedup": None, "max_steps_computed": None, "min_psnr": None}
    assert read_target(nothing) is None
    assert read_target({}) is None
    assert read_target({**nothing, "min_psnr": 35.0}) == Target("min_psnr", 35.0)
    assert read_target({**nothing, "max_steps_computed": 12}) == Target("max_steps_computed", 12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speedup": 2.0, "min_psnr": 30.0}, "speedup and min_psnr cannot be combined"),
        ({"speedup": 2.0, "max_steps_computed": 3, "min_psnr": 1.0}, "speedup and max_steps_computed and min_psnr"),
        ({"speedup": 0.9}, "speedup must be at least 1, got 0.9"),
        ({"speedup": 0.0}, "speedup must be a finite number above 0"),
        ({"speedup": float("inf")}, "speedup must be a finite number"),
        ({"min_psnr": -3.0}, "min_psnr must be a finite number above 0"),
        ({"min_psnr": "high"}, "min_psnr must be a finite number"),
        ({"max_steps_computed": 0}, "max_steps_computed must be a whole number >= 1"),
        ({"max_steps_computed": 12.5}, "max_steps_computed must be a whole number >= 1"),
    ],
)
def test_targets_that_exclude_each_other_or_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_target(values)
