"""Samples, and what the turns they are taken in promise."""

from __future__ import annotations

import math

import pytest
import torch

from bench.timing.turns import Samples, in_turns, same_threads


def test_the_median_and_the_quartiles_do_not_follow_one_disturbed_turn():
    samples = Samples((1.0, 2.0, 3.0, 4.0, 1000.0), "s")
    assert samples.median == 3
    assert samples.quartiles == (2, 4)
    assert Samples((7.0,)).quartiles == (7, 7)


def test_ratios_are_taken_turn_by_turn():
    """The second turn was three times slower as a whole, and does not show."""
    slow, fast = Samples((2.0, 6.0), "s"), Samples((1.0, 3.0), "s")
    assert slow.over(fast) == Samples((2.0, 2.0))
    assert slow.in_milliseconds() == Samples((2000.0, 6000.0), "ms")


@pytest.mark.parametrize("values", [(), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)])
def test_what_is_no_figure_is_refused(values):
    with pytest.raises(ValueError, match="positive and finite"):
        Samples(values, "s")


def test_tasks_take_turns_and_the_warm_up_is_not_counted():
    calls = []
    tasks = {name: lambda index, name=name: calls.append((name, index)) for name in "ab"}
    times = in_turns(tasks, 3, warm_up=1)
    assert calls == [(name, index) for index in range(4) for name in "ab"]
    assert [len(times[name].values) for name in "ab"] == [3, 3]


def test_a_part_leaves_the_threads_as_they_were():
    threads = torch.get_num_threads()
    with same_threads():
        torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads
