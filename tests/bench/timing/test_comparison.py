"""Comparing runs, on samples whose ratios can be told by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.timing.comparison import MIN_SAMPLES, compare, compare_figure, comparison_text, figures_text, ratio_interval
from bench.timing.record import Record, Samples

MACHINE = {"cpu": "a CPU", "cores": 2, "gpu": None, "threads": 1, "python": "3.11", "torch": "2.13", "commit": "abc"}


def times(center: float, yardstick: float = 10.0, spread: float = 0.01, count: int = 21) -> Samples:
    """Times around `center`, at most `spread` of it away, beside a steady yardstick."""
    return Samples(
        tuple(center * (1 + spread * (2 * i / (count - 1) - 1)) for i in range(count)), "ms", (yardstick,) * count
    )


def record(figures: dict[str, Any], **machine: Any) -> Record:
    return Record({**MACHINE, **machine}, {}, {"part": figures})


@pytest.mark.parametrize(
    ("after", "verdict"),
    [(100.0, "same"), (102.0, "same"), (110.0, "slower"), (90.0, "faster"), (98.5, "same")],
)
def test_a_difference_has_a_name_beyond_the_margin_only(after, verdict):
    row = compare_figure("step", times(100.0), times(after))
    assert row.verdict == verdict
    assert row.ratio == row.plain_ratio == pytest.approx(after / 100)
    assert row.interval[0] < row.ratio < row.interval[1]
    assert row.interval[1] - row.interval[0] < 0.02


def test_a_wide_spread_takes_the_verdict_away():
    assert compare_figure("step", times(100, spread=0.5), times(110, spread=0.5)).verdict == "same"


def test_the_interval_holds_the_ratio_of_the_medians_and_shrinks_with_samples():
    generator = np.random.default_rng(1)
    few, many = (generator.lognormal(0, 0.2, size=(2, count)) for count in (20, 2000))
    (low, high), (lower, higher) = ratio_interval(*few), ratio_interval(*many)
    assert low < 1 < high and lower < 1 < higher
    assert higher - lower < (high - low) / 3


def test_a_slower_machine_is_corrected_for():
    """Everything took twice as long, and the step 20 % more than that."""
    before = times(100.0, yardstick=10.0)
    same, slower = times(200.0, yardstick=20.0), times(240.0, yardstick=20.0)
    row = compare_figure("step", before, same)
    assert (row.plain_ratio, row.ratio, row.verdict) == (pytest.approx(2), pytest.approx(1), "same")
    row = compare_figure("step", before, slower)
    assert row.ratio == pytest.approx(1.2)
    # A fifth of ln 2 is added to the margin: such a correction is not good to 3 %.
    assert row.verdict == "slower" and compare_figure("step", before, times(225.0, 20.0)).verdict == "same"


def test_turns_keep_their_yardstick():
    """The machine's speed changed within both runs, at other times: no noise remains."""
    before = Samples((10.0, 10.0, 20.0, 20.0, 20.0), "s", (1.0, 1.0, 2.0, 2.0, 2.0))
    after = Samples((20.0, 10.0, 10.0, 10.0, 10.0), "s", (2.0, 1.0, 1.0, 1.0, 1.0))
    row = compare_figure("video", before, after)
    assert (row.plain_ratio, row.ratio, row.interval) == (0.5, 1, (1, 1))


def test_ratios_are_higher_or_lower_not_slower():
    half, two_thirds = Samples((0.5,) * 9), Samples((2 / 3,) * 9)
    assert compare_figure("speedup", half, two_thirds).verdict == "higher"
    assert compare_figure("speedup", two_thirds, half).verdict == "lower"


def test_without_a_yardstick_on_both_sides_there_is_no_correction():
    row = compare_figure("step", times(100, yardstick=10), Samples(times(100).values, "ms"))
    assert row.ratio == row.plain_ratio == pytest.approx(1)


@pytest.mark.parametrize("count", [1, MIN_SAMPLES - 1])
def test_few_samples_give_no_verdict(count):
    few = Samples((100.0,) * count, "ms", (10.0,) * count)
    for before, after in ((few, times(200)), (times(200), few)):
        row = compare_figure("step", before, after)
        assert row.interval is None and row.verdict == "few samples" and row.ratio in (0.5, 2)


@pytest.mark.parametrize(
    ("before", "after", "verdict", "ratio"),
    [
        (163840, 163840, "equal", 1),
        (163840, 163841, "changed", 163841 / 163840),
        (0, 3, "changed", None),
        ([15, 15], [15, 15], "equal", None),
        ([15, 15], [15, 14], "changed", None),
        ("a model", "another", "changed", None),
        (3, times(3.0), "changed", None),
    ],
)
def test_bytes_and_counts_compare_exactly(before, after, verdict, ratio):
    row = compare_figure("bytes", before, after)
    assert (row.verdict, row.ratio, row.interval) == (verdict, ratio, None)


def test_missing_figures_are_listed():
    comparison = compare(record({"both": 1, "old": 2}), record({"both": 1, "nested": {"new": 3}}))
    assert [row.name for row in comparison.rows] == ["part / both"]
    assert (comparison.only_before, comparison.only_after) == (["part / old"], ["part / nested / new"])
    other = Record(MACHINE, {}, {"another": {"a": 1, "b": 2}})
    comparison = compare(record({"a": 1}), other)
    assert (comparison.only_before, comparison.only_after) == (["all of part"], ["all of another"])


@pytest.mark.parametrize("changed", [{"cpu": "another CPU"}, {"threads": 2}, {"torch": "2.14"}])
def test_another_machine_is_told(changed):
    (name,) = changed
    (warning,) = compare(record({"a": 1}), record({"a": 1}, **changed)).warnings
    assert warning.startswith(f"{name} differs: {MACHINE[name]} before, {changed[name]} after")


def test_another_commit_and_date_are_no_reason_to_warn():
    assert not compare(record({"a": times(1)}), record({"a": times(1)}, commit="def", date="now", dirty=True)).warnings


def test_a_machine_whose_speed_changed_is_told():
    (warning,) = compare(record({"a": times(1, 10)}), record({"a": times(1, 15)})).warnings
    assert "yardsticks took 1.50 to 1.50 times as long" in warning
    assert not compare(record({"a": times(1, 10)}), record({"a": times(1, 11)})).warnings


def test_only_times_beyond_the_limit_count_as_slower():
    before = record({"a": times(100), "b": times(100), "ratio": Samples((1.0,) * 9), "bytes": 1})
    after = record({"a": times(130), "b": times(120.5), "ratio": Samples((2.0,) * 9), "bytes": 2})
    comparison = compare(before, after)
    assert [row.name for row in comparison.slower_than(1.2)] == ["part / a"]
    assert [row.name for row in comparison.slower_than(1.1)] == ["part / a", "part / b"]


def test_the_table_shows_differences_and_counts_what_is_equal():
    before = record({"step_ms": times(100), "held": 5, "kept": 1, "gone": 1}, dirty=True)
    after = record({"step_ms": times(150), "held": 6, "kept": 1}, threads=2)
    text = comparison_text(before, after, compare(before, after))
    lines = text.splitlines()
    assert lines[0].startswith("before  commit abc with changed files")
    assert lines[2].startswith("WARNING threads differs")
    (step,) = (line for line in lines if line.startswith("part / step_ms"))
    assert step.split()[3:8] == ["100", "ms", "150", "ms", "1.500"] and step.endswith("slower")
    (held,) = (line for line in lines if line.startswith("part / held"))
    assert held.split()[3:] == ["5", "6", "1.200", "1.200", "changed"]
    assert "equal: 1 exact figure" in lines and "only before: part / gone" in lines
    assert not any(line.startswith("part / kept") for line in lines)


def test_figures_are_printed_with_their_spread():
    text = figures_text(
        "part", {"step_ms": Samples((1.0, 2.0, 3.0, 4.0, 5.0), "ms"), "once_s": Samples((2.5,)), "n": {"b": 7}}
    )
    step, once, nested, count = text.splitlines()[1:]
    assert step.split() == ["step_ms", "3", "quartiles", "2", "to", "4,", "n", "=", "5"]
    assert once.split() == ["once_s", "2.5"]
    assert (nested, count.split()) == ("  n", ["b", "7"])
