"""The files of a bench: bench.json, videos.csv and the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adacache.atomic import atomic_path
from bench.run import Work
from bench.setting import BenchClip

BENCH, VIDEOS, TUNED, LOG = "bench.json", "videos.csv", "tuned.json", "log.jsonl"


def write_bench(bench: Mapping[str, Any], work: Work, clips: Sequence[BenchClip], folder: Path) -> None:
    """Write everything but the videos; each file appears complete or not at all."""
    with atomic_path(folder / BENCH) as temporary:
        text = json.dumps(bench, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    _write_videos(work, clips, folder / VIDEOS)
    from bench.report import render

    render(folder)


def origin(folder: Path) -> dict[str, Any]:
    """On what and of which commit the results that are there were measured; empty where there are none."""
    try:
        bench = json.loads((folder / BENCH).read_text(encoding="utf-8"))
        return {key: bench[key] for key in ("machine", "commit")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_videos(work: Work, clips: Sequence[BenchClip], path: Path) -> None:
    """A row per finished video."""
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
