"""Measure what caches do to the mini model's videos: computed steps, and PSNR to uncached videos of the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from adacache import AdaCacheConfig
from adacache.calibration.quality import psnr
from adacache.policies.base import PolicyConfig
from mini.world.captions import draw_scene, held_out_captions
from opensora.config.loading import load_config
from opensora.device import limit_threads
from opensora.pipeline import SamplingOutput, SamplingPipeline

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "mini"
MANY_STEPS = 200  # close enough to the exact flow to judge uncached videos of fewer steps, too
SPEED_CLASSES = ("still", "slowly", "fast")
CAPTIONS_PER_CLASS = 8


def caches_to_compare() -> dict[str, PolicyConfig | None]:
    """Return the caches of the bundled configs and the published codebooks; None computes every step."""
    metric_block = load_config(CONFIGS / "sample_adacache.py").cache.metric_blocks
    official = {name: {"codebook": name, "metric_blocks": metric_block} for name in ("fast30", "slow30")}
    return {
        "uncached": None,
        "mini AdaCache": load_config(CONFIGS / "sample_adacache.py").cache,
        "mini AdaCache+MoReg": load_config(CONFIGS / "sample_adacache_moreg.py").cache,
        "mini calibrated": load_config(CONFIGS / "sample_calibrated.py").cache,
        **{f"official codebook {name}": AdaCacheConfig.from_dict(value) for name, value in official.items()},
    }


def measure_quality(captions: int) -> dict[str, Any]:
    """Sample held-out captions under every cache; return means over videos, PSNR in dB of the decoded frames."""
    pipe = SamplingPipeline.from_config(CONFIGS / "sample.py")
    limit_threads(pipe.model)
    steps = pipe.scheduler.num_sampling_steps
    prompts = held_out_captions(captions, seed=2)
    uncached = sample_all(pipe, None, prompts, f"uncached, {steps} steps")
    pipe.scheduler.num_sampling_steps = MANY_STEPS
    exact = sample_all(pipe, None, prompts, f"uncached, {MANY_STEPS} steps")
    pipe.scheduler.num_sampling_steps = steps
    by_speed = captions_by_speed(CAPTIONS_PER_CLASS, seed=3)
    result: dict[str, Any] = {"captions": captions, "steps": steps}
    for name, cache in caches_to_compare().items():
        outputs = uncached if cache is None else sample_all(pipe, cache, prompts, name)
        row = {f"psnr_to_{MANY_STEPS}_steps_db": _mean_psnr(outputs, exact)[0]}
        if cache is not None:
            row["psnr_to_uncached_db"], row["psnr_lowest_db"] = _mean_psnr(outputs, uncached)
            row["computed_steps"] = _mean_steps(outputs)
            for speed in SPEED_CLASSES:
                row[f"computed_steps_{speed}"] = _mean_steps(sample_all(pipe, cache, by_speed[speed], speed))
        result[name] = row
    return result


def captions_by_speed(count: int, seed: int) -> dict[str, list[str]]:
    """Draw `count` different held-out captions of each speed of a single figure before a plain background at rest."""
    rng = np.random.default_rng(seed)
    captions: dict[str, dict[str, None]] = {speed: {} for speed in SPEED_CLASSES}
    while any(len(found) < count for found in captions.values()):
        scene = draw_scene(rng, held_out=True)
        found = captions.get(scene.main.motion, {}) if scene.kind == "plain" else {}
        if len(found) < count:
            found[scene.caption()] = None
    return {speed: list(found) for speed, found in captions.items()}


def sample_all(
    pipe: SamplingPipeline, cache: PolicyConfig | None, prompts: Sequence[str], label: str
) -> list[SamplingOutput]:
    """Sample one video per prompt; the position of a prompt is its seed."""
    pipe.cache = cache
    return [pipe([prompt], seed=i, progress=False) for i, prompt in enumerate(tqdm(prompts, desc=label, leave=False))]


def _mean_psnr(outputs: Sequence[SamplingOutput], references: Sequence[SamplingOutput]) -> tuple[float, float]:
    """Return the mean and the lowest PSNR."""
    values = [psnr(o.videos[0], r.videos[0]) for o, r in zip(outputs, references, strict=True)]
    return float(np.mean(values)), float(np.min(values))


def _mean_steps(outputs: Sequence[SamplingOutput]) -> float:
    return float(np.mean([output.traces[0].num_computed for output in outputs]))


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as the table that docs/figures.md shows."""
    lines = [
        f"| cache | computed of {result['steps']} | PSNR to uncached, mean (lowest) | to {MANY_STEPS} steps "
        "| computed: still / slow / fast |",
        "|---|---|---|---|---|",
    ]
    for name, row in result.items():
        if not isinstance(row, Mapping):
            continue
        exact = f"{row[f'psnr_to_{MANY_STEPS}_steps_db']:.1f} dB"
        if "computed_steps" not in row:
            lines.append(f"| {name} | {result['steps']} | - | {exact} | - |")
            continue
        speeds = " / ".join(f"{row[f'computed_steps_{speed}']:.1f}" for speed in SPEED_CLASSES)
        lines.append(
            f"| {name} | {row['computed_steps']:.1f} | {row['psnr_to_uncached_db']:.1f} dB "
            f"({row['psnr_lowest_db']:.1f}) | {exact} | {speeds} |"
        )
    return "\n".join(lines)
