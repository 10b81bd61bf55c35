"""A folder of samples compared with a folder of references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.compare.bootstrap import interval
from bench.compare.captions import caption_scores
from bench.compare.metric_info import METRICS
from bench.compare.metrics import DEFAULT_FPS, Metrics
from bench.compare.pairs import NotCompared, Pair, match
from bench.compare.reading import read_clip
from opensora.errors import one_line


@dataclass(frozen=True)
class ComparedClip:
    """The values of one pair by metric, and the size of its clips (frames, height, width)."""

    pair: Pair
    size: tuple[int, int, int]
    values: dict[str, float]

    @property
    def group(self) -> tuple[str, str]:
        """What its interval is drawn by: the prompt, or the clip itself where the prompt is not known."""
        prompt = self.pair.record.prompt
        return ("name", self.pair.name) if prompt is None else ("prompt", prompt)


@dataclass(frozen=True)
class Mean:
    """Mean over clips with its 95 % interval, which is None of a single prompt."""

    mean: float
    low: float | None
    high: float | None
    num_clips: int


@dataclass(frozen=True)
class Evaluation:
    """What came of comparing two folders; ``not_compared`` and ``notes`` belong to the result."""

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
        """Mean of a metric over the clips that have it; every prompt counts the same, however many clips it has."""
        having = [clip for clip in self.clips if key in clip.values]
        groups = [clip.group for clip in having]
        mean, low, high = interval([clip.values[key] for clip in having], groups)
        alone = len(set(groups)) == 1
        return Mean(mean, None if alone else low, None if alone else high, len(having))


def evaluate(
    reference: Path, samples: Path, metrics: Metrics | None = None, without: Sequence[str] = (), progress: bool = True
) -> Evaluation:
    """Compare every clip of ``samples`` with the one of the same name in ``reference``.

    Lossless frames (``*.frames.npz``) are read where both clips of a pair have them, else their mp4s, or what there is.
    Clips that have no partner, cannot be read, or differ from their partner in size, prompt or seed are listed in
    ``not_compared``.

    Args:
        metrics: to be given by whoever calls this often; by default new ones are made.
        without: keys of metrics to leave out.
        progress: show a bar.

    Raises:
        ConfigError: no such folder, an empty one, or no name that is in both.
    """
    from tqdm import tqdm

    pairs, not_compared = match(Path(reference), Path(samples))
    metrics = metrics or Metrics(without)
    clips = []
    for pair in tqdm(pairs, desc="comparing", unit="clip", disable=not progress):
        result = compare_pair(pair, metrics, without)
        (clips if isinstance(result, ComparedClip) else not_compared).append(result)
    notes = [*_reading_notes([clip.pair for clip in clips]), *metrics.notes]
    return Evaluation(Path(reference), Path(samples), clips, sorted(not_compared, key=lambda clip: clip.name), notes)


def compare_pair(pair: Pair, metrics: Metrics, without: Sequence[str] = ()) -> ComparedClip | NotCompared:
    """Read and compare one pair; the caption check is of the sample alone."""
    clips, rates = [], [pair.record.fps]
    for role, files in (("sample", pair.sample), ("reference", pair.reference)):
        try:
            frames, fps = read_clip(files.path)
        except (OSError, ValueError) as error:
            return NotCompared(pair.name, f"unreadable {role}: {one_line(error)}")
        clips.append(frames)
        rates.append(fps)
    frames, target = clips
    if frames.shape != target.shape:
        sizes = " instead of ".join(f"{f} frames of {h} x {w}" for f, h, w, _ in (frames.shape, target.shape))
        return NotCompared(pair.name, f"another size: {sizes}")
    fps = next((rate for rate in rates if rate), DEFAULT_FPS)
    values = {**metrics.compare(frames, target, fps), **caption_scores(frames, pair.record.prompt)}
    return ComparedClip(pair, frames.shape[:3], {key: value for key, value in values.items() if key not in without})


def _reading_notes(pairs: Sequence[Pair]) -> list[str]:
    notes = []
    lossy = sum(pair.sample.lossy or pair.reference.lossy for pair in pairs)
    if lossy:
        notes.append(
            f"{lossy} of {len(pairs)} pairs were read from mp4, whose compression lowers and caps PSNR and changes the "
            "other metrics (a video of 64 x 64 is 30 to 35 dB from its own frames); sample with --save-frames True to "
            "compare lossless frames"
        )
    stale = [files.stale for pair in pairs for files in (pair.reference, pair.sample) if files.stale]
    if stale:
        notes.append(
            f"lossless frames older than the mp4 of the same name must be of an earlier run and were passed over: "
            f"{', '.join(map(str, stale))}"
        )
    return notes
