"""Samples, and what the turns they are taken in promise."""

from __future__ import annotations

import math

import pytest
import torch

from bench.timing.record import Samples
from bench.timing.turns import Length, Task, Yardstick, in_turns, same_threads


def test_the_median_and_the_quartiles_do_not_follow_one_disturbed_turn():
    samples = Samples((1.0, 2.0, 3.0, 4.0, 1000.0), "s")
    assert samples.median == 3
    assert samples.quartiles == (2, 4)
    assert Samples((7.0,)).quartiles == (7, 7)


def test_ratios_are_taken_turn_by_turn():
    """The second turn was three times slower as a whole, and does not show."""
    slow, fast = Samples((2.0, 6.0), "s", (10.0, 30.0)), Samples((1.0, 3.0), "s", (10.0, 30.0))
    ratio = slow.over(fast)
    assert ratio == Samples((2.0, 2.0))
    assert not ratio.is_time


def test_the_yardstick_of_a_ratio_is_the_ratio_of_yardsticks():
    """Brief tasks were not disturbed, long ones took twice as long in the second turn."""
    brief, long = Samples((1.0, 1.0), "ms", (0.5, 0.5)), Samples((10.0, 20.0), "ms", (5.0, 10.0))
    ratio = brief.over(long)
    assert ratio == Samples((0.1, 0.05), "", (0.1, 0.05))
    assert ratio.in_yardsticks() == (1, 1)


def test_times_are_told_in_yardsticks_and_in_milliseconds():
    samples = Samples((1.0, 4.0), "s", (10.0, 20.0))
    assert samples.in_yardsticks() == (0.1, 0.2)
    assert samples.in_milliseconds() == Samples((1000.0, 4000.0), "ms", (10.0, 20.0))


@pytest.mark.parametrize(
    ("values", "yardstick", "message"),
    [((), (), "at least one"), ((1.0,), (1.0, 2.0), "2 samples of the yardstick"), ((0.0,), (), "positive")]
    + [((1.0,), (value,), "positive") for value in (-1.0, math.nan, math.inf)],
)
def test_what_is_no_figure_is_refused(values, yardstick, message):
    with pytest.raises(ValueError, match=message):
        Samples(values, "s", yardstick)


def test_tasks_take_turns_and_the_warm_up_is_not_counted():
    calls = []
    tasks = {name: Task(lambda index, name=name: calls.append((name, index)), Length.BRIEF) for name in "ab"}
    turns = in_turns(tasks, 3, Yardstick(), warm_up=1, lengths=[Length.STEP])
    assert calls == [(name, index) for index in range(4) for name in "ab"]
    assert len(turns["a"].values) == len(turns["b"].yardstick) == 3
    assert turns["a"].yardstick == turns["b"].yardstick
    beside = turns.beside((1.0, 2.0, 3.0), "ms", Length.STEP)
    assert sum(beside.yardstick) > sum(turns["a"].yardstick)


def test_a_part_leaves_the_threads_as_they_were():
    threads = torch.get_num_threads()
    with same_threads():
        torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads
