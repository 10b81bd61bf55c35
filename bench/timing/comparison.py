"""Compare two runs of the benchmark figure by figure, and format figures and comparisons as text.

A machine's speed drifts, so that times of two runs differ although nothing was changed. Within a run that cancels, as
tasks to be compared are measured in turns. Between runs it does not; hence every turn also times a yardstick, a fixed
workload of PyTorch (`turns.Yardstick`), and times are compared as multiples of it. The plain ratio is kept beside the
corrected one: if the two are far apart, the machine was not the same, and the correction is only as good as the
yardstick resembles the figure. The yardstick of a ratio of two times is the ratio of theirs.

The ratio of medians, after over before, comes with a bootstrap interval: turns are drawn from each run with
replacement, each time with its yardstick. A difference gets a verdict only if the whole interval is beyond a margin,
which grows with what the yardstick had to correct.
The interval covers the noise within a process; what differs from process to process (the placement of memory, say)
is left to the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bench.machine import DECISIVE
from bench.timing.record import Record, Samples

DRIFT = 1.25  # a machine that is this much faster or slower gives a warning
MARGIN = 0.03  # no verdict on a smaller difference
DOUBT = 0.2  # share of the logarithm of the correction that is added to the margin
CONFIDENCE = 0.95
# The range of n samples contains the true median with probability 1 - 2 ** (1 - n): 0.94 for 5.
MIN_SAMPLES = 5
_DRAWS = 2000
_NAME_WIDTH = 40
_HEADER = ("figure", "before", "after", "plain ratio", "ratio", "interval", "")


@dataclass(frozen=True)
class Row:
    """One figure in both runs.

    Attributes:
        before, after: `Samples`, or an exact value.
        plain_ratio: after over before, of medians or exact numbers; None if that makes no sense.
        ratio: the same for times as multiples of the yardstick's; `plain_ratio` without a yardstick.
        interval: of `ratio`; None for exact values, and for fewer than `MIN_SAMPLES` samples.
        verdict: "faster", "slower" or "same" for times; "lower", "higher" or "same" for ratios; "equal" or "changed"
            for exact values; "few samples" for samples without an interval.
    """

    name: str
    before: Any
    after: Any
    plain_ratio: float | None
    ratio: float | None
    interval: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All figures of two runs.

    Attributes:
        warnings: one sentence for each reason not to trust the ratios.
        only_before, only_after: names of figures that the other run lacks, "all of mini" for a whole part.
    """

    rows: list[Row]
    warnings: list[str]
    only_before: list[str]
    only_after: list[str]

    def slower_than(self, ratio: float) -> list[Row]:
        """Return the times whose whole interval is above `ratio`."""
        return [
            row
            for row in self.rows
            if row.interval is not None
            and isinstance(row.after, Samples)
            and row.after.is_time
            and row.interval[0] > ratio
        ]


def compare(before: Record, after: Record, margin: float = MARGIN) -> Comparison:
    """Compare `after` with `before`, for every figure that both have."""
    old, new = before.flat(), after.flat()
    return Comparison(
        rows=[compare_figure(name, old[name], new[name], margin) for name in old if name in new],
        warnings=[*mismatches(before.machine, after.machine), *drifts(old, new)],
        only_before=_missing(before, after),
        only_after=_missing(after, before),
    )


def compare_figure(name: str, before: Any, after: Any, margin: float = MARGIN) -> Row:
    """Compare one figure of two runs."""
    if not (isinstance(before, Samples) and isinstance(after, Samples)):
        numbers = all(isinstance(value, int | float) for value in (before, after))
        ratio = after / before if numbers and before else None
        return Row(name, before, after, ratio, ratio, None, "equal" if before == after else "changed")
    plain = after.median / before.median
    corrected = bool(before.yardstick and after.yardstick)
    old, new = (np.array(side.in_yardsticks() if corrected else side.values) for side in (before, after))
    ratio = float(np.median(new) / np.median(old))
    if min(len(old), len(new)) < MIN_SAMPLES:
        return Row(name, before, after, plain, ratio, None, "few samples")
    interval = ratio_interval(old, new)
    margin += DOUBT * abs(math.log(plain / ratio))
    return Row(name, before, after, plain, ratio, interval, _verdict(interval, margin, after.is_time))


def ratio_interval(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the bootstrap interval of median(after) / median(before), of (m,) and (n,) positive numbers.

    It is the same at every call.
    """
    generator = np.random.default_rng(0)

    def medians(values: np.ndarray) -> np.ndarray:
        return np.median(values[generator.integers(len(values), size=(_DRAWS, len(values)))], axis=1)

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians(after) / medians(before), (tail, 1 - tail))
    return float(low), float(high)


def _verdict(interval: tuple[float, float], margin: float, is_time: bool) -> str:
    low, high = interval
    if low > 1 + margin:
        return "slower" if is_time else "higher"
    if high < 1 / (1 + margin):
        return "faster" if is_time else "lower"
    return "same"


def mismatches(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything in `DECISIVE` that differs between two machines."""
    return [
        f"{name} differs: {before.get(name)} before, {after.get(name)} after; times do not tell two commits apart then"
        for name in DECISIVE
        if before.get(name) != after.get(name)
    ]


def drifts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the yardsticks of any figures show that the machine was not equally fast."""
    ratios = [
        median(after[name].yardstick) / median(old.yardstick)
        for name, old in before.items()
        if isinstance(old, Samples) and old.is_time and old.yardstick and getattr(after.get(name), "yardstick", ())
    ]
    if not ratios or max(1 / min(ratios), max(ratios)) < DRIFT:
        return []
    return [
        f"the machine changed: yardsticks took {min(ratios):.2f} to {max(ratios):.2f} times as long after as before; "
        "that is corrected for only as far as figures resemble the yardstick, so measure again when it is quiet"
    ]


def _missing(run: Record, other: Record) -> list[str]:
    parts = [f"all of {part}" for part in run.figures if part not in other.figures]
    shared = Record({}, {}, {part: figures for part, figures in run.figures.items() if part in other.figures})
    return parts + [name for name in shared.flat() if name not in other.flat()]


def figures_text(title: str, values: Mapping[str, Any], indent: int = 0) -> str:
    """Format nested figures as aligned lines: the median and, for repeated samples, the quartiles."""
    lines = [f"{' ' * indent}{title}"]
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(figures_text(name, value, indent + 2))
        else:
            lines.append(f"{' ' * (indent + 2)}{name:<{_NAME_WIDTH - indent}} {_figure(value)}")
    return "\n".join(lines)


def comparison_text(before: Record, after: Record, comparison: Comparison) -> str:
    """Say what was compared, with a table of all figures that are not exactly equal, and those of only one run."""
    equal = [row for row in comparison.rows if row.verdict == "equal"]
    shown = [row for row in comparison.rows if row.verdict != "equal"]
    lines = [
        f"before  {_run(before.machine)}",
        f"after   {_run(after.machine)}",
        *(f"WARNING {warning}" for warning in comparison.warnings),
        "",
    ]
    if shown:
        lines += [
            *_table([_HEADER, *map(_cells, shown)]),
            "",
            "Ratios are after over before: plain, and of times as multiples of the yardstick's, with the "
            f"{CONFIDENCE:.0%} interval of a bootstrap.",
            f"A verdict needs {MIN_SAMPLES} samples and all of the interval more than {MARGIN:.0%} away from 1, and "
            f"{DOUBT:.0%} of what the yardstick corrected.",
        ]
    if equal:
        lines.append(f"equal: {len(equal)} exact figure{'s' if len(equal) > 1 else ''}")
    for label, names in (("before", comparison.only_before), ("after", comparison.only_after)):
        if names:
            lines.append(f"only {label}: {', '.join(names)}")
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if not isinstance(value, Samples):
        return _short(value)
    if len(value.values) == 1:
        return _short(value.median)
    first, third = value.quartiles
    return f"{value.median:<8.4g} quartiles {first:.4g} to {third:.4g}, n = {len(value.values)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _run(machine: Mapping[str, Any]) -> str:
    dirty = " with changed files" if machine.get("dirty") else ""
    return f"commit {machine.get('commit')}{dirty}, {machine.get('date')}, {machine.get('cpu')}"


def _cells(row: Row) -> tuple[str, ...]:
    interval = "" if row.interval is None else f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"
    return (
        row.name,
        _cell(row.before),
        _cell(row.after),
        "" if row.plain_ratio is None else f"{row.plain_ratio:.3f}",
        "" if row.ratio is None else f"{row.ratio:.3f}",
        interval,
        row.verdict,
    )


def _cell(value: Any) -> str:
    if isinstance(value, Samples):
        return f"{value.median:.4g} {value.unit}".rstrip()
    text = _short(value)
    return text if len(text) <= 20 else f"{text[:17]}..."


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = "<>>>>><"
    lines = [
        "  ".join(f"{cell:{align}{width}}" for cell, align, width in zip(row, alignments, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
