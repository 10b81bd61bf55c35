"""Compare a folder of samples with a folder of references: a table to read, and a file to process further."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from adacache.atomic import atomic_path
from bench.compare.bootstrap import interval
from bench.compare.metric_info import METRICS
from bench.compare.metrics import Metrics, caption_scores
from bench.compare.pairs import NotCompared, Pair, match, read_clip
from opensora.cli.records import aligned
from opensora.errors import ConfigError, one_line


@dataclass(frozen=True)
class ComparedClip:
    """The values of one pair by metric, and the size of its clips (frames, height, width)."""

    pair: Pair
    size: tuple[int, int, int]
    values: dict[str, float]

    @property
    def group(self) -> tuple[str, str]:
        """The group by which intervals are drawn: the prompt, or the clip itself if its prompt is not known."""
        prompt = self.pair.record.prompt
        return ("name", self.pair.name) if prompt is None else ("prompt", prompt)


@dataclass(frozen=True)
class Mean:
    """Mean over clips with its 95 % interval, which is None for a single prompt."""

    mean: float
    low: float | None
    high: float | None
    num_clips: int


@dataclass(frozen=True)
class Evaluation:
    """The result of comparing two folders, including the clips that were not compared, and notes."""

    reference: Path
    samples: Path
    clips: list[ComparedClip]
    not_compared: list[NotCompared]
    notes: list[str]

    @property
    def keys(self) -> list[str]:
        """The metrics that at least one clip has, in the order of tables."""
        return [key for key in METRICS if any(key in clip.values for clip in self.clips)]

    def mean(self, key: str) -> Mean:
        """Return the mean of a metric over the clips that have it; all prompts count the same, however many clips."""
        having = [clip for clip in self.clips if key in clip.values]
        groups = [clip.group for clip in having]
        mean, low, high = interval([clip.values[key] for clip in having], groups)
        alone = len(set(groups)) == 1
        return Mean(mean, None if alone else low, None if alone else high, len(having))


def evaluate(reference: Path, samples: Path, progress: bool = True) -> Evaluation:
    """Compare every clip of `samples` with the one of the same name in `reference`.

    Lossless frames (`*.frames.npz`) are read if both clips of a pair have them, else their mp4s, or whatever exists.
    Clips that have no partner, cannot be read, or differ from their partner in size, prompt or seed are listed in
    `not_compared`.

    Args:
        progress: show a bar.

    Raises:
        ConfigError: a folder does not exist or is empty, or no name is in both.
    """
    pairs, not_compared = match(Path(reference), Path(samples))
    metrics, clips = Metrics(), []
    for pair in tqdm(pairs, desc="comparing", unit="clip", disable=not progress):
        result = compare_pair(pair, metrics)
        (clips if isinstance(result, ComparedClip) else not_compared).append(result)
    notes = [*_reading_notes([clip.pair for clip in clips]), *metrics.notes]
    return Evaluation(Path(reference), Path(samples), clips, sorted(not_compared, key=lambda clip: clip.name), notes)


def compare_pair(pair: Pair, metrics: Metrics) -> ComparedClip | NotCompared:
    """Read and compare one pair; only the sample gets the caption check."""
    clips = []
    for role, files in (("sample", pair.sample), ("reference", pair.reference)):
        try:
            clips.append(read_clip(files.path))
        except (OSError, ValueError) as error:
            return NotCompared(pair.name, f"unreadable {role}: {one_line(error)}")
    frames, target = clips
    if frames.shape != target.shape:
        sizes = " instead of ".join(f"{f} frames of {h} x {w}" for f, h, w, _ in (frames.shape, target.shape))
        return NotCompared(pair.name, f"another size: {sizes}")
    values = {**metrics.compare(frames, target), **caption_scores(frames, pair.record.prompt)}
    return ComparedClip(pair, frames.shape[:3], values)


def _reading_notes(pairs: Sequence[Pair]) -> list[str]:
    notes = []
    lossy = sum(pair.sample.lossy or pair.reference.lossy for pair in pairs)
    if lossy:
        notes.append(
            f"{lossy} of {len(pairs)} pairs were read from mp4, whose compression lowers and caps PSNR and changes the "
            "other metrics (a small video is 30 to 35 dB from its own frames); sample with --save-frames to "
            "compare lossless frames"
        )
    stale = [files.stale for pair in pairs for files in (pair.reference, pair.sample) if files.stale]
    if stale:
        notes.append(
            f"lossless frames older than the mp4 of the same name must be of an earlier run and were passed over: "
            f"{', '.join(map(str, stale))}"
        )
    return notes


FORMATS = (".json", ".csv")
MAX_NAME = 40  # characters in the table
_NONE = "-"


def check_format(path: Path) -> None:
    """Refuse a file name that has no known format.

    Raises:
        ConfigError: the name ends in neither .json nor .csv.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"results are written as {' or '.join(FORMATS)}, not as '{path.name}'")


def table(evaluation: Evaluation) -> str:
    """Return one line per clip, then the means with the limits of their intervals."""
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
    lines = aligned(rows)
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-3], rule, *lines[-3:]])


def remarks(evaluation: Evaluation) -> str:
    """Return the notes and the clips that were not compared, a line each; "" if there are none."""
    lines = [f"note: {note}" for note in evaluation.notes]
    if evaluation.not_compared:
        total = len(evaluation.clips) + len(evaluation.not_compared)
        lines.append(f"not compared, {len(evaluation.not_compared)} of {total}:")
        lines += [f"  {clip.name}: {clip.reason}" for clip in evaluation.not_compared]
    return "\n".join(lines)


def write(evaluation: Evaluation, path: Path) -> None:
    """Write everything as .json, or the values per clip as .csv; the file appears complete or not at all.

    Raises:
        ConfigError: `path` has another ending.
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
    """Return the evaluation as JSON values."""
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
    """Write a row per clip; one that was not compared has no values, and the reason in the last column."""
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
    """Return a long name's start and end: numbers and seeds are at the end."""
    half = (MAX_NAME - 3) // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}...{name[-half:]}"
