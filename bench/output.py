"""The results of a bench: bench.json, videos.csv, report and picture, and tables for the terminal or in Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from bench.report import draw, render
from bench.run import Work
from bench.setting import BenchClip
from opensora.cli.records import aligned

BENCH, VIDEOS, TUNED, LOG = "bench.json", "videos.csv", "tuned.json", "log.jsonl"


def write_bench(bench: Mapping[str, Any], work: Work, clips: Sequence[BenchClip], folder: Path) -> None:
    """Write everything but the videos; each file appears complete or not at all."""
    with atomic_path(folder / BENCH) as temporary:
        text = json.dumps(bench, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    _write_videos(work, clips, folder / VIDEOS)
    render(folder)
    draw(folder)


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


Row = Sequence[str]
Point = Mapping[str, Any]


def terminal_tables(bench: Mapping[str, Any]) -> str:
    """Return one table per budget, policies by falling PSNR, and one of the policies without budgets."""
    steps, baseline = bench["setting"]["num_steps"], bench["baseline"]
    labels, points = _labels(bench), bench["points"]
    parts = []
    for budget in sorted({point["budget"] for point in points}, key=lambda budget: (budget is None, budget)):
        heading = "settings of their own" if budget is None else f"{budget} of {steps} steps"
        over = f"over {_titles(bench)[baseline]}"
        rows: list[Row] = [[heading, "steps", "compute", "PSNR dB", over, "to exact", "speedup"]]
        rows += [
            [
                label,
                _value(point, "computed_steps", 1),
                _value(point, "compute", 1),
                _value(point, "psnr", 2),
                "" if point["policy"] == baseline else _gain(point, "psnr"),
                _value(point, "psnr_exact", 2),
                _value(point, "speedup", 2) + "x",
            ]
            for label, point in sorted(zip(labels, points, strict=True), key=lambda pair: -_psnr(pair[1]))
            if point["budget"] == budget
        ]
        parts.append(_aligned(rows))
    return "\n\n".join(parts)


def markdown_tables(bench: Mapping[str, Any]) -> str:
    """Return the tables of docs/bench.md.

    PSNR to both references by policy and budget, as differences to the baseline, then policies without budgets, then
    speedups.
    """
    budgets, baseline = bench["setting"]["budgets"], bench["baseline"]
    by_policy = {title: [p for p in bench["points"] if p["policy"] == name] for name, title in _titles(bench).items()}

    def by_budget(cell: Callable[[Point], str]) -> list[Row]:
        rows: list[Row] = [["policy", *(f"{budget} steps" for budget in budgets)]]
        for title, points in by_policy.items():
            own = {point["budget"]: cell(point) for point in points if point["budget"] in budgets}
            rows += [[title, *(own.get(budget, "-") for budget in budgets)]] if own else []
        return rows

    def quality(key: str) -> list[Row]:
        return by_budget(
            lambda point: (
                f"{_value(point, key, 1)} dB ({_value(point, 'compute', 1)})"
                if point["policy"] == baseline
                else _gain(point, key)
            )
        )

    exact = f"to {bench['setting']['exact_steps']} steps"
    own: list[Row] = [["policy", "compute", "PSNR to uncached", f"over {_titles(bench)[baseline]}", exact]]
    for label, point in zip(_labels(bench), bench["points"], strict=True):
        if point["budget"] is None:
            psnr, to_exact = (f"{_value(point, key, 1)} dB" for key in ("psnr", "psnr_exact"))
            own.append([label, _value(point, "compute", 1), psnr, _gain(point, "psnr"), to_exact])
    speedups = by_budget(lambda point: f"{_value(point, 'speedup', 2)}x")
    caches = ["cache"]
    for title, *_ in speedups[1:]:
        most = max(point["values"]["cache_mb"]["mean"] for point in by_policy[title])
        caches.append(f"{most:.2f} MB")
    speedups = [[*row, cache] for row, cache in zip(speedups, caches, strict=True)]
    tables = [quality("psnr"), quality("psnr_exact"), own, speedups]
    return "\n\n".join(_as_markdown(table) for table in tables if len(table) > 1)


def _titles(bench: Mapping[str, Any]) -> dict[str, str]:
    return {policy["name"]: policy["title"] for policy in bench["policies"]}


def _labels(bench: Mapping[str, Any]) -> list[str]:
    """Return a point's title, with the options by which points without a budget differ from others of their policy."""
    labels, titles = [], _titles(bench)
    for point in bench["points"]:
        others = [other["options"] for other in bench["points"] if other["policy"] == point["policy"]]
        told = [
            f"{name} {value}"
            for name, value in point["options"].items()
            if not isinstance(value, Mapping) and any(other.get(name) != value for other in others)
        ]
        is_own = point["budget"] is None and told
        labels.append(titles[point["policy"]] + (f" ({', '.join(told)})" if is_own else ""))
    return labels


def _psnr(point: Point) -> float:
    return point["values"]["psnr"]["mean"]


def _value(point: Point, key: str, digits: int) -> str:
    estimate = point["values"].get(key)
    return "-" if estimate is None else f"{estimate['mean']:.{digits}f}"


def _gain(point: Point, key: str) -> str:
    """Format the difference to the baseline at equal compute, with its interval."""
    gain = point["gain"].get(key)
    return "-" if gain is None else f"{gain['mean']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})"


def _aligned(rows: Sequence[Row]) -> str:
    lines = aligned(rows)
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _as_markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
