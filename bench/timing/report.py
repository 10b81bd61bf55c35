"""Figures and comparisons as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.timing.comparison import CONFIDENCE, DOUBT, MARGIN, MIN_SAMPLES, Comparison, Row
from bench.timing.record import Record, Samples

_NAME_WIDTH = 40
_HEADER = ("figure", "before", "after", "plain ratio", "ratio", "interval", "")


def figures_text(title: str, values: Mapping[str, Any], indent: int = 0) -> str:
    """Nested figures as aligned lines: the median, and of repeated samples the quartiles."""
    lines = [f"{' ' * indent}{title}"]
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(figures_text(name, value, indent + 2))
        else:
            lines.append(f"{' ' * (indent + 2)}{name:<{_NAME_WIDTH - indent}} {_figure(value)}")
    return "\n".join(lines)


def comparison_text(before: Record, after: Record, comparison: Comparison) -> str:
    """What was compared, a table of all figures that are not exactly equal, and what only one of the runs has."""
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
