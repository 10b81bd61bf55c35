"""All numbers of a bench as the page's table: a row per reference and point, a column per quantity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.data import COSTS, budget_of, known_budgets

MISSING = "–"
# Policies are tuned to about equal values of these, so the smallest one at a budget is not marked as best.
_GIVEN = ("computed_steps", "compute", "tflops")


@dataclass(frozen=True)
class Column:
    """A column; one with a `metric` is shown only while that metric is chosen."""

    key: str
    title: str
    unit: str = ""
    better: str = "lower"
    metric: str | None = None


@dataclass(frozen=True)
class Cell:
    """A number for sorting and as text; `value` is None if it is missing."""

    value: float | None
    text: str
    interval: str = ""
    kind: str = ""  # classes of its style


@dataclass(frozen=True)
class Row:
    """A reference or a point; `column` is the budget it is shown at, None for references."""

    title: str
    policy: str
    ours: bool
    column: int | None
    cells: tuple[Cell, ...]
    options: str | None


def columns(bench: Mapping[str, Any]) -> list[Column]:
    """Return the columns between the policy's name and its options."""
    baseline = next(p["title"] for p in bench["policies"] if p["name"] == bench["baseline"])
    metrics = bench["metrics"]
    return [
        Column("budget", "Budget", "steps"),
        *(Column("gain", f"{m['title']} over {baseline}", m["unit"], m["better"], m["key"]) for m in metrics),
        *(Column(q["key"], q["title"], q["unit"], q["better"]) for q in (*metrics, *_costs(bench))),
        *(Column("worst", f"Worst video's {m['title']}", m["unit"], m["better"], m["key"]) for m in metrics),
        Column("videos", "Videos", better="higher"),
    ]


def rows(bench: Mapping[str, Any]) -> list[Row]:
    """Return the rows: references first, then all points in the plan's order."""
    policies = {policy["name"]: policy for policy in bench["policies"]}
    budgets = known_budgets(bench)
    best = _best(bench, budgets)
    references = [
        Row(entry["title"], entry["name"], False, None, _cells(bench, entry, frozenset()), None)
        for entry in bench["references"]
    ]
    return references + [
        Row(
            policies[point["policy"]]["title"],
            point["policy"],
            policies[point["policy"]]["ours"],
            budget_of(point, budgets),
            _cells(bench, point, {key for key, index in best if index == number}),
            json.dumps(point["options"], indent=1) if point.get("options") else None,
        )
        for number, point in enumerate(bench["points"])
    ]


def number_text(value: float, digits: int, sign: str = "") -> str:
    """Format a number with a true minus, and without a sign if it rounds to zero; `sign` "+" is for gains."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _costs(bench: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    metrics = {metric["key"] for metric in bench["metrics"]}
    return [
        cost
        for cost in COSTS
        if cost["key"] not in metrics and any(point["values"].get(cost["key"]) for point in bench["points"])
    ]


def _cells(bench: Mapping[str, Any], entry: Mapping[str, Any], best: frozenset[str] | set[str]) -> tuple[Cell, ...]:
    gains = {} if entry.get("policy") == bench["baseline"] else entry.get("gain") or {}
    worst, budget, videos = entry.get("worst") or {}, entry.get("budget"), entry.get("num_videos")
    return (
        Cell(budget, MISSING if budget is None else str(budget)),
        *(_estimate(gains.get(m["key"]), m, f"gain_{m['key']}" in best, "+") for m in bench["metrics"]),
        *(_estimate(entry["values"].get(q["key"]), q, q["key"] in best) for q in (*bench["metrics"], *_costs(bench))),
        *(_plain(worst.get(m["key"]), m["digits"]) for m in bench["metrics"]),
        _plain(videos, 0),
    )


def _plain(value: float | None, digits: int) -> Cell:
    return Cell(value, MISSING if value is None else number_text(value, digits))


def _estimate(estimate: Mapping[str, float] | None, quantity: Mapping[str, Any], is_best: bool, sign: str = "") -> Cell:
    """Make a cell of a mean with its interval and, for a gain, whether the interval is on one side of zero."""
    if not estimate:
        return Cell(None, MISSING)
    mean, low, high = (number_text(estimate[name], quantity["digits"], sign) for name in ("mean", "low", "high"))
    kinds = ["best"] if is_best else []
    if sign and (estimate["low"] > 0 or estimate["high"] < 0):
        kinds.append("better" if (estimate["mean"] > 0) == (quantity["better"] != "lower") else "worse")
    interval = "" if estimate["low"] == estimate["high"] else f"{low} to {high}"
    return Cell(estimate["mean"], mean, interval, " ".join(kinds))


def _best(bench: Mapping[str, Any], budgets: Sequence[int]) -> set[tuple[str, int]]:
    """Return pairs of a quantity and the number of the point that has its best mean at a budget: ("gain_psnr", 3)."""
    leaders: dict[tuple[str, int], tuple[float, int]] = {}
    with_baseline = {budget_of(point, budgets) for point in bench["points"] if point["policy"] == bench["baseline"]}
    for number, point in enumerate(bench["points"]):
        column = budget_of(point, budgets)
        gains = {} if point["policy"] == bench["baseline"] else point.get("gain") or {}
        for quantity in (*bench["metrics"], *_costs(bench)):
            key, sign = quantity["key"], -1 if quantity["better"] == "lower" else 1
            for name, estimate in ((key, point["values"].get(key)), (f"gain_{key}", gains.get(key))):
                if not estimate or key in _GIVEN:
                    continue
                merit = sign * estimate["mean"]
                if name != key and merit <= 0 and column in with_baseline:  # the baseline itself is the best
                    continue
                if (name, column) not in leaders or merit > leaders[name, column][0]:
                    leaders[name, column] = (merit, number)
    return {(name, number) for (name, _), (_, number) in leaders.items()}
