"""An evaluation as a table to read and as a file to go on with."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from adacache.atomic import atomic_path
from bench.compare.evaluate import ComparedClip, Evaluation
from bench.compare.metric_info import METRICS
from opensora.errors import ConfigError

FORMATS = (".json", ".csv")
MAX_NAME = 40  # characters in the table
_NONE = "-"


def check_format(path: Path) -> None:
    """Refuse a file name that no format belongs to.

    Raises:
        ConfigError: it ends in neither .json nor .csv.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"results are written as {' or '.join(FORMATS)}, not as '{path.name}'")


def table(evaluation: Evaluation) -> str:
    """One line per clip, then the means with the limits of their intervals."""
    if not evaluation.clips:
        return "no clip could be compared"
    keys = evaluation.keys
    means = [evaluation.mean(key) for key in keys]
    rows = [["clip", *(METRICS[key].heading for key in keys)]]
    for clip in evaluation.clips:
        rows.append([_short(clip.pair.name), *(_number(key, clip.values.get(key)) for key in keys)])
    for label, attribute in (("mean", "mean"), ("95 % from", "low"), ("to", "high")):
        limits = [getattr(mean, attribute) for mean in means]
        rows.append([label, *map(_number, keys, limits)])
    lines = _aligned(rows)
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-3], rule, *lines[-3:]])


def remarks(evaluation: Evaluation) -> str:
    """The notes and the clips that were not compared, a line each; empty if there are none."""
    lines = [f"note: {note}" for note in evaluation.notes]
    if evaluation.not_compared:
        total = len(evaluation.clips) + len(evaluation.not_compared)
        lines.append(f"not compared, {len(evaluation.not_compared)} of {total}:")
        lines += [f"  {clip.name}: {clip.reason}" for clip in evaluation.not_compared]
    return "\n".join(lines)


def write(evaluation: Evaluation, path: Path) -> None:
    """Write everything as .json, or the values per clip as .csv; the file appears complete or not at all.

    Raises:
        ConfigError: another ending.
        OSError: the disk refuses.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".csv":
            _write_csv(evaluation, file)
        else:
            json.dump(to_dict(evaluation), file, indent=1, ensure_ascii=False)
            file.write("\n")


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON values."""
    return {
        "reference": str(evaluation.reference),
        "samples": str(evaluation.samples),
        "metrics": [vars(METRICS[key]) for key in evaluation.keys],
        "mean": {key: vars(evaluation.mean(key)) for key in evaluation.keys},
        "clips": [_clip_to_dict(clip) for clip in evaluation.clips],
        "not_compared": [vars(clip) for clip in evaluation.not_compared],
        "notes": evaluation.notes,
    }


def _clip_to_dict(clip: ComparedClip) -> dict[str, Any]:
    frames, height, width = clip.size
    return {
        "name": clip.pair.name,
        "prompt": clip.pair.record.prompt,
        "seed": clip.pair.record.seed,
        "frames": frames,
        "height": height,
        "width": width,
        "reference": clip.pair.reference.path.name,
        "sample": clip.pair.sample.path.name,
        "values": clip.values,
    }


def _write_csv(evaluation: Evaluation, file: TextIO) -> None:
    """Clips that were not compared have no values, and the reason in the last column."""
    rows = []
    for clip in evaluation.clips:
        row = _clip_to_dict(clip)
        rows.append({**row, **row.pop("values")})
    rows += [{"name": clip.name, "not_compared": clip.reason} for clip in evaluation.not_compared]
    about = ["name", "prompt", "seed", "frames", "height", "width", "reference", "sample"]
    writer = csv.DictWriter(file, [*about, *evaluation.keys, "not_compared"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["name"]))


def _number(key: str, value: float | None) -> str:
    return _NONE if value is None else f"{value:.{METRICS[key].digits}f}"


def _short(name: str) -> str:
    """The start and the end of a long name: numbers and seeds stand at the end."""
    half = (MAX_NAME - 3) // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}...{name[-half:]}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
