"""The results of a bench: bench.json, videos.csv and the report, and its tables for the terminal and as Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from bench.report import render
from bench.run import Work
from bench.setting import BenchClip

BENCH, VIDEOS, TUNED, LOG = "bench.json", "videos.csv", "tuned.json", "log.jsonl"


def write_bench(bench: Mapping[str, Any], work: Work, clips: Sequence[BenchClip], folder: Path) -> None:
    """Write everything but the videos; each file appears complete or not at all."""
    with atomic_path(folder / BENCH) as temporary:
        text = json.dumps(bench, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    _write_videos(work, clips, folder / VIDEOS)
    render(folder)


def origin(folder: Path) -> dict[str, Any]:
    """Read on which machine and commit the existing results were measured; return {} if there are none."""
    try:
        bench = json.loads((folder / BENCH).read_text(encoding="utf-8"))
        return {key: bench[key] for key in ("machine", "commit")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_videos(work: Work, clips: Sequence[BenchClip], path: Path) -> None:
    """Write a row per finished video."""
    rows = [
        {"prompt_index": clip.prompt_index, "prompt": clip.prompt, "seed": clip.seed}
        | {"policy": point.policy, "budget": point.budget, "point": point.key}
        | dict(row.values)
        for clip in clips
        for point in (*work.references, *work.points)
        if (row := work.log.get(clip, point)) is not None
    ]
    columns = dict.fromkeys(key for row in rows for key in row)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


_MAIN = "psnr"
Row = Sequence[str]


def terminal_tables(bench: Mapping[str, Any]) -> str:
    """Return one table per budget, policies by falling PSNR, and one of the policies without budgets."""
    titles = _titles(bench)
    budgets = dict.fromkeys(point["budget"] for point in bench["points"])
    steps = bench["setting"]["num_steps"]
    parts = []
    for budget in sorted(budgets, key=lambda budget: (budget is None, budget)):
        points = [point for point in bench["points"] if point["budget"] == budget]
        points.sort(key=lambda point: -point["values"][_MAIN]["mean"])
        heading = "settings of their own" if budget is None else f"{budget} of {steps} steps"
        rows = [[heading, "steps", "compute", "PSNR dB", "over " + titles[bench["baseline"]], "to exact", "speedup"]]
        rows += [
            [
                titles[point["policy"]] + ("" if budget is not None else f" ({_short(point['options'])})"),
                _value(point, "computed_steps", 1),
                _value(point, "compute", 1),
                _value(point, _MAIN, 2),
                _gain(point, bench["baseline"]),
                _value(point, f"{_MAIN}_exact", 2),
                _value(point, "speedup", 2) + "x",
            ]
            for point in points
        ]
        parts.append(_aligned(rows))
    return "\n\n".join(parts)


def markdown_tables(bench: Mapping[str, Any]) -> str:
    """Return a table of PSNR by policy and budget, with the gain over the baseline at equal compute.

    A second table has the policies without budgets.
    """
    titles = _titles(bench)
    budgets = bench["setting"]["budgets"]
    steps, baseline = bench["setting"]["num_steps"], bench["baseline"]
    rows: list[Row] = [["policy", *(f"{budget} of {steps} steps" for budget in budgets)]]
    for policy in bench["policies"]:
        points = {point["budget"]: point for point in bench["points"] if point["policy"] == policy["name"]}
        if points.keys() & set(budgets):
            cells = [_cell(points[budget], baseline) if budget in points else "-" for budget in budgets]
            rows.append([_bold(policy, titles), *cells])
    own: list[Row] = [["policy", "setting", "compute (steps)", "PSNR dB", f"over {titles[baseline]}"]]
    for point in bench["points"]:
        if point["budget"] is None:
            values = (_value(point, "compute", 1), _value(point, _MAIN, 1), _gain(point, baseline))
            own.append([titles[point["policy"]], f"`{_short(point['options'])}`", *values])
    tables = [_as_markdown(table) for table in (rows, own) if len(table) > 1 and len(table[0]) > 1]
    return "\n\n".join(tables)


def _titles(bench: Mapping[str, Any]) -> dict[str, str]:
    return {policy["name"]: policy["title"] for policy in bench["policies"]}


def _bold(policy: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    title = titles[policy["name"]]
    return f"**{title}**" if policy["ours"] else title


def _cell(point: Mapping[str, Any], baseline: str) -> str:
    value = f"{point['values'][_MAIN]['mean']:.1f} dB"
    return value if point["policy"] == baseline else f"{value} ({_gain(point, baseline, digits=1)})"


def _value(point: Mapping[str, Any], key: str, digits: int) -> str:
    estimate = point["values"].get(key)
    return "-" if estimate is None else f"{estimate['mean']:.{digits}f}"


def _gain(point: Mapping[str, Any], baseline: str, digits: int = 2) -> str:
    """Format the difference to the baseline with half the width of its interval, which itself is in bench.json."""
    if point["policy"] == baseline:
        return ""
    gain = point["gain"].get(_MAIN)
    if gain is None:
        return "-"
    return f"{gain['mean']:+.{digits}f} ± {(gain['high'] - gain['low']) / 2:.{digits}f}"


def _short(options: Mapping[str, Any]) -> str:
    """Name the options that tell the settings of a policy apart."""
    common = ("policy", "bridge", "schedule", "cache_device", "cache_dtype")
    told = {key: value for key, value in options.items() if key not in common and not isinstance(value, list | dict)}
    return ", ".join(f"{key}={value}" for key, value in told.items())


def _aligned(rows: Sequence[Row]) -> str:
    """Align columns, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(cells)).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _as_markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
