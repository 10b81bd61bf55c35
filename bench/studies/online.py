"""Does a fixed list of computed steps gain by correcting it online, for each video, by distance and motion?

Expectations come from training captions. On held-out ones every correction is compared with the list itself at as many
computed steps, video by video.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from adacache import AdaCacheConfig, Codebook, Trace
from adacache.policies.base import PolicyConfig
from adacache.policies.hybrid import HybridConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.psnr import psnr

if TYPE_CHECKING:
    from tqdm import tqdm

    from opensora.pipeline import SamplingPipeline

BRIDGE = "fitted"
NUM_STEPS = 30  # that the plans were found for, offline
BATCH_SIZE = 11
TABLE_CLASSES = ("still", "slowly", "fast", "pan")
PLANS = {
    10: (0, 1, 3, 5, 7, 10, 14, 20, 26, 29),
    12: (0, 1, 3, 5, 7, 9, 12, 15, 19, 24, 27, 29),
    15: (0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 19, 23, 26, 28, 29),
}
CORRECTIONS: dict[str, dict[str, float]] = {
    "distance 0.5": {"distance_weight": 0.5},
    "distance 1": {"distance_weight": 1},
    "motion 0.5": {"motion_weight": 0.5},
    "motion 1": {"motion_weight": 1},
    "distance 0.5, motion 0.5": {"distance_weight": 0.5, "motion_weight": 0.5},
    "motion budget 1": {"motion_budget": 1},
    "motion budget 2": {"motion_budget": 2},
    "distance 0.5, motion budget 2": {"distance_weight": 0.5, "motion_budget": 2},
}


@dataclass(frozen=True)
class Clip:
    """What one video is sampled from."""

    content: str  # its class
    caption: str
    seed: int


@dataclass(frozen=True)
class Expectation:
    """Means over videos sampled without reuse, one number per sampling step."""

    change: tuple[float, ...]
    motion: tuple[float, ...]


def clips_of(captions: Mapping[str, Sequence[str]], seeds: int, first_seed: int) -> list[Clip]:
    """Every caption ``seeds`` times; no two clips share their noise."""
    texts = [(content, text) for _ in range(seeds) for content, found in captions.items() for text in found]
    return [Clip(*text, first_seed + index) for index, text in enumerate(texts)]


def sample(
    pipe: SamplingPipeline, cache: PolicyConfig | None, clips: Sequence[Clip], progress: tqdm
) -> list[tuple[np.ndarray, Trace | None]]:
    """Frames (F, H, W, 3) uint8 and trace of every clip; ``progress`` counts videos."""
    pipe.cache = cache
    results = []
    for start in range(0, len(clips), BATCH_SIZE):
        batch = clips[start : start + BATCH_SIZE]
        output = pipe([clip.caption for clip in batch], seed=[clip.seed for clip in batch], progress=False)
        results += zip(output.videos, output.traces, strict=True)
        progress.update(len(batch))
    return results


def expect(
    pipe: SamplingPipeline, metric_blocks: tuple[int, ...], clips: Sequence[Clip], progress: tqdm
) -> Expectation:
    """Measure what ``HybridConfig`` compares with, every step computed; the first step, never compared, gets 1."""
    steps = pipe.scheduler.num_sampling_steps
    plain_motion = {"scale": 1, "power": 1, "gradient_weight": 0, "window": (1, steps)}
    observing = AdaCacheConfig(Codebook((), (1,)), metric_blocks=metric_blocks, moreg=plain_motion)
    records = [trace.records[1:] for _, trace in sample(pipe, observing, clips, progress)]
    return Expectation(
        *(
            (1.0, *np.mean([[getattr(record, name) for record in run] for run in records], axis=0).tolist())
            for name in ("distance", "motion_score")
        )
    )


def corrected(
    length: int, expectation: Expectation, metric_blocks: tuple[int, ...], correction: Mapping[str, Any]
) -> HybridConfig:
    """A plan under a correction; a motion budget is placed around the plan's own length."""
    return HybridConfig(
        PLANS[length],
        expectation.change,
        expectation.motion,
        metric_blocks=metric_blocks,
        max_steps_computed=length + correction.get("motion_budget", 0),
        bridge=BRIDGE,
        **{"distance_weight": 0, **correction},
    )


def policies(expectation: Expectation, metric_blocks: tuple[int, ...]) -> dict[tuple[int, str], PolicyConfig]:
    """By length of the plan and name of the correction; "plan" is the list itself."""
    return {(length, "plan"): StaticScheduleConfig(plan, bridge=BRIDGE) for length, plan in PLANS.items()} | {
        (length, name): corrected(length, expectation, metric_blocks, correction)
        for length, (name, correction) in product(PLANS, CORRECTIONS.items())
    }


def measure(
    pipe: SamplingPipeline,
    caches: Mapping[tuple[int, str], PolicyConfig],
    clips: Sequence[Clip],
    progress: tqdm,
) -> list[dict[str, Any]]:
    """One row per policy and clip: computed steps, and PSNR in dB to the uncached video of the same noise."""
    references = [frames for frames, _ in sample(pipe, None, clips, progress)]
    rows = []
    for (length, name), cache in caches.items():
        progress.set_description(f"{length} steps, {name}")
        sampled = sample(pipe, cache, clips, progress)
        rows += [
            {
                "plan": length,
                "correction": name,
                "class": clip.content,
                "caption": clip.caption,
                "seed": clip.seed,
                "computed_steps": trace.computed_steps,
                "psnr": psnr(frames, reference),
            }
            for clip, reference, (frames, trace) in zip(clips, references, sampled, strict=True)
        ]
    return rows


def at_mean_steps(plans: Mapping[int, np.ndarray], steps: float) -> np.ndarray:
    """PSNR of every video at ``steps`` computed ones, on the line through the two nearest of the plans around it.

    ``plans`` are PSNR (V,) by length. Beyond the shortest and the longest their line goes on.
    """
    lengths = sorted(plans)
    if len(lengths) == 1 or steps in plans:
        return plans[steps]
    upper = next((index for index, length in enumerate(lengths[1:], start=1) if length > steps), len(lengths) - 1)
    short, long = lengths[upper - 1], lengths[upper]
    weight = (steps - short) / (long - short)
    return (1 - weight) * plans[short] + weight * plans[long]


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per plan and correction the means over videos, and the gain over the plan at the correction's mean steps.

    Gains are in dB, paired video by video, each with its standard error, over all videos and per class.
    """
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["plan"], row["correction"]), []).append(row)
    plans = {length: _psnr(members) for (length, name), members in groups.items() if name == "plan"}
    summary = []
    for (length, name), members in groups.items():
        counts = np.array([len(row["computed_steps"]) for row in members])
        gains = _psnr(members) - at_mean_steps(plans, float(counts.mean()))
        entry = {
            "plan": length,
            "correction": name,
            "steps": float(counts.mean()),
            "psnr": float(_psnr(members).mean()),
            "gain": _mean_with_error(gains),
            "classes": {},
        }
        for content in dict.fromkeys(row["class"] for row in members):
            own = [index for index, row in enumerate(members) if row["class"] == content]
            entry["classes"][content] = {
                "steps": float(counts[own].mean()),
                "psnr": float(_psnr(members)[own].mean()),
                "gain": _mean_with_error(gains[own]),
            }
        summary.append(entry)
    return summary


def markdown(summary: Iterable[Mapping[str, Any]]) -> str:
    """The summary as a table: gains in dB with their standard errors, and the steps of a class where they differ."""
    lines = [
        "| plan | correction | steps | PSNR | all | " + " | ".join(TABLE_CLASSES) + " |",
        "|---" * (5 + len(TABLE_CLASSES)) + "|",
    ]
    for entry in summary:
        is_plan = entry["correction"] == "plan"
        cells = [f"{entry['psnr']:.2f} dB", "" if is_plan else _gain(entry["gain"])]
        for content in TABLE_CLASSES:
            values = entry["classes"].get(content)
            if values is None:
                cells.append("-")
            elif is_plan:
                cells.append(f"{values['psnr']:.2f} dB")
            else:
                steps = "" if abs(values["steps"] - entry["steps"]) < 0.05 else f" ({values['steps']:.1f} steps)"
                cells.append(_gain(values["gain"]) + steps)
        lines.append(f"| {entry['plan']} | {entry['correction']} | {entry['steps']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _psnr(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([row["psnr"] for row in rows])


def _mean_with_error(values: np.ndarray) -> tuple[float, float | None]:
    """Mean, and its standard error; a single value has none."""
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return float(values.mean()), error


def _gain(gain: tuple[float, float | None]) -> str:
    mean, error = gain
    return f"{mean:+.2f}" + ("" if error is None else f" ± {error:.2f}")
