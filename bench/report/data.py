"""The data of the page: bench.json, checked; the videos as data URIs; definitions of all numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BENCH_FILE = "bench.json"
_DIGITS = 6  # significant digits; measurements have no more, and the page shows fewer
_PARTS = (
    *("title", "command", "machine", "setting", "left_out", "metrics"),
    *("baseline", "policies", "points", "references", "showcase"),
)


def _cost(key: str, title: str, unit: str, digits: int, about: str, better: str = "lower") -> dict[str, Any]:
    return {"key": key, "title": title, "unit": unit, "digits": digits, "better": better, "about": about}


# Entries have the same keys as bench.json's metrics; quantities that points lack are left out of the page.
COSTS = (
    _cost(
        "computed_steps", "Computed steps", "", 1, "Steps at which the blocks ran; a step computed in part counts so."
    ),
    _cost("compute", "Compute", "steps", 1, "Operations of the run over those of one computed step."),
    _cost("denoise_seconds", "Denoising time", "s", 2, "All sampling steps; prompts are encoded beforehand."),
    _cost("total_seconds", "Total time", "s", 2, "Denoising and decoding."),
    _cost("speedup", "Speedup", "×", 2, "Denoising time of the uncached run over this one's, in pairs.", "higher"),
    _cost("tflops", "Operations", "TFLOP", 2, "Of the transformer; a multiply-add counts as two."),
    _cost("cache_mb", "Cache", "MB", 1, "The most that the policy keeps from one step to the next."),
    _cost("peak_mb", "Peak memory", "MB", 0, "While denoising, on a GPU."),
)
_GENERAL = (
    (
        "Budget",
        "Computed steps that a policy was tuned to, on other prompts. Settings without a budget stand at the nearest.",
    ),
    (
        "Differences at equal compute",
        "Prompt by prompt: the other policy's curve over compute is interpolated to the compute of the point "
        "(shortly beyond its ends it goes on level). None where the curve does not reach.",
    ),
    ("Intervals", "95 %, by bootstrap over prompts; means are over all prompts and seeds."),
)


def load_bench(folder: Path) -> dict[str, Any]:
    """Read a folder's bench.json; NaN and infinities, which browsers cannot read, become None.

    Raises:
        FileNotFoundError: there is no bench.json.
        ValueError: the file is not what the bench writes.
    """
    path = folder / BENCH_FILE
    if not path.is_file():
        raise FileNotFoundError(f"there is no {BENCH_FILE} in '{folder}'; scripts/bench.py writes one")
    try:
        bench = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); let scripts/bench.py write it again") from error
    missing = [part for part in _PARTS if part not in bench] if isinstance(bench, Mapping) else _PARTS
    if missing:
        raise ValueError(f"'{path}' is not of a bench: it lacks {', '.join(missing)}")
    return bench


def load_videos(folder: Path, bench: Mapping[str, Any]) -> dict[str, str]:
    """Return file name -> data URI of every video of the showcase that exists."""
    names = {video["file"] for scene in bench["showcase"] for video in scene["videos"]}
    paths = {name: folder / name for name in sorted(names)}
    return {name: _data_uri(path) for name, path in paths.items() if path.is_file()}


def page_data(bench: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bench as the page's scripts read it: rounded, and a video's steps as columns, which is far shorter."""
    showcase = [
        {**scene, "videos": [{**video, "steps": _columns(video.get("steps") or [])} for video in scene["videos"]]}
        for scene in bench["showcase"]
    ]
    return _rounded({**bench, "showcase": showcase} | {"points": None})


def _data_uri(path: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _columns(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turn a list of records into lists by key; a key that is None everywhere is left out."""
    keys = dict.fromkeys(key for step in steps for key in step)
    columns = {key: [step.get(key) for step in steps] for key in keys}
    return {key: column for key, column in columns.items() if any(value is not None for value in column)}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value


def known_budgets(bench: Mapping[str, Any]) -> list[int]:
    """Return the bench's budgets or, without any, those of its points or the rounded compute of their settings."""
    budgets = bench["setting"].get("budgets")
    given = budgets or [point["budget"] for point in bench["points"] if point["budget"] is not None]
    return sorted(set(given or (round(compute_of(point)) for point in bench["points"])))


def compute_of(point: Mapping[str, Any]) -> float:
    """Return the mean compute of a point in equivalent steps."""
    values = point["values"]
    return (values.get("compute") or values["computed_steps"])["mean"]


def budget_of(point: Mapping[str, Any], budgets: Sequence[int]) -> int:
    """Return the budget that a point is shown at: its own or, without one, the nearest to its compute."""
    if point["budget"] is not None:
        return point["budget"]
    return min(budgets, key=lambda budget: abs(budget - compute_of(point)))


def define(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (title, definition) of everything that the page shows."""
    described = [(quantity["title"], _described(quantity)) for quantity in (*metrics, *COSTS)]
    return [*described, *_GENERAL]


def _described(quantity: Mapping[str, Any]) -> str:
    return f"{quantity.get('about', '')} {quantity['better'].capitalize()} is better.".strip()
