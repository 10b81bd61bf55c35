"""Does the risk of a draft order drafts by how much their cache changed them?

Drafts of several captions and seeds are compared with the uncached videos of the same noise. Candidates for the
risk are judged by rank correlation with the loss of PSNR, over all drafts and, as drafts are chosen, among the seeds of
one caption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from adacache.calibration.quality import psnr
from adacache.outcome import change_risk
from adacache.policies.base import PolicyConfig
from adacache.trace import StepRecord, Trace

if TYPE_CHECKING:
    from tqdm import tqdm

    from opensora.pipeline import SamplingPipeline


@dataclass(frozen=True)
class Draft:
    """One draft: its caption, how its steps went, and its PSNR in dB to the uncached video of the same noise."""

    caption: str
    trace: Trace
    psnr: float


def measure(
    pipe: SamplingPipeline,
    caches: Mapping[str, PolicyConfig],
    captions: Sequence[str],
    seeds: int,
    first_seed: int,
    progress: tqdm,
) -> dict[str, list[Draft]]:
    """Drafts by cache; no two captions share their noise, ``progress`` counts videos."""
    drafts: dict[str, list[Draft]] = {name: [] for name in caches}
    for index, caption in enumerate(captions):
        noise = range(first_seed + index * seeds, first_seed + (index + 1) * seeds)
        videos = {}
        for name, cache in {"uncached": None, **caches}.items():
            pipe.cache = cache
            output = pipe([caption] * seeds, seed=noise, progress=False)
            videos[name] = output.videos
            progress.update(seeds)
            if cache is not None:
                qualities = map(psnr, output.videos, videos["uncached"])
                drafts[name] += map(Draft, [caption] * seeds, output.traces, qualities)
    return drafts


def reweighted(trace: Trace, weight: Callable[[StepRecord, StepRecord], float]) -> float | None:
    """The risk with every distance times a weight of the two computed steps around the gap."""
    computed = [record for record in trace.records if record.computed]
    weights = {end.index: weight(start, end) for start, end in pairwise(computed)}
    records = [
        record if record.distance is None else replace(record, distance=record.distance * weights[record.index])
        for record in trace.records
    ]
    return change_risk(Trace(trace.num_steps, records))


def counted_in_steps(trace: Trace) -> float | None:
    """The risk where every reused step counts alike, however much time it spans."""
    return change_risk(Trace(trace.num_steps, [replace(record, timestep=None) for record in trace.records]))


def candidates(trace: Trace) -> dict[str, float]:
    """Numbers that might tell how much a draft was changed; motion and bridge only where the trace has them."""
    half = trace.num_steps / 2
    found = {
        "risk": change_risk(trace),
        "steps alike": counted_in_steps(trace),
        "first half": reweighted(trace, lambda start, _: start.index < half),
        "second half": reweighted(trace, lambda start, _: start.index >= half),
    }
    motion = [record.motion_score for record in trace.records if record.motion_score is not None]
    if motion:
        found["risk x motion"] = found["risk"] * fmean(motion)
    weights = [record.bridge_weight for record in trace.records if record.bridge_weight is not None]
    if weights:
        found["risk x (1 - bridge weight)"] = reweighted(trace, lambda _, end: 1 - (end.bridge_weight or 0))
        found["1 - bridge weight"] = 1 - fmean(weights)
    return found


def summarize(drafts: Sequence[Draft]) -> dict[str, dict[str, float]]:
    """By candidate the rank correlations with the loss of PSNR: over all, mean and standard error within captions.

    "pairs" is the share of pairs of drafts of a caption in which the worse one has the higher number.
    """
    values = [candidates(draft.trace) for draft in drafts]
    loss = np.array([-draft.psnr for draft in drafts])
    groups = [
        [index for index, draft in enumerate(drafts) if draft.caption == caption]
        for caption in dict.fromkeys(draft.caption for draft in drafts)
    ]
    summary = {}
    for name in values[0]:
        numbers = np.array([value[name] for value in values])
        within = [rank_correlation(numbers[group], loss[group]) for group in groups]
        pairs = [(numbers[a] - numbers[b]) * (loss[a] - loss[b]) for group in groups for a, b in combinations(group, 2)]
        summary[name] = {
            "all": rank_correlation(numbers, loss),
            "within": fmean(within),
            "error": float(np.std(within, ddof=1) / len(within) ** 0.5),
            "pairs": fmean(product > 0 for product in pairs),
        }
    return summary


def rank_correlation(a: Iterable[float], b: Iterable[float]) -> float:
    """Spearman's rank correlation; equal values share their mean rank, and with no others it is 0."""
    ranks = [_ranks(np.asarray(values)) for values in (a, b)]
    if any(np.ptp(values) == 0 for values in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def markdown(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary of one cache as a table."""
    lines = ["| candidate | all | within captions | pairs |", "|---|---|---|---|"]
    for name, row in summary.items():
        within = f"{row['within']:+.2f} ± {row['error']:.2f}"
        lines.append(f"| {name} | {row['all']:+.2f} | {within} | {row['pairs']:.0%} |")
    return "\n".join(lines)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places]
