#!/usr/bin/env python3
"""Show per class of content how fast residuals change, and whether adapting the schedule to that pays.

Samples a few held-out captions of every class with the mini model: with every step computed, under AdaCache, and under
fixed lists of steps that are AdaCache's average on training captions. Writes a plot and the numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import stdev

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from tqdm import tqdm  # noqa: E402

from adacache import AdaCacheConfig  # noqa: E402
from adacache.atomic import atomic_path  # noqa: E402
from adacache.calibration.quality import psnr  # noqa: E402
from bench import content as study  # noqa: E402
from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.config.loading import load_config  # noqa: E402
from opensora.device import limit_threads  # noqa: E402
from opensora.errors import ConfigError, WeightsError  # noqa: E402
from opensora.pipeline import SamplingPipeline  # noqa: E402


def main() -> None:
    """Sample, summarize, draw."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs/mini/sample_adacache.py"))
    parser.add_argument("--captions", type=int, default=6, help="held-out captions per class")
    parser.add_argument("--tune-captions", type=int, default=3, help="training captions per class for the fixed list")
    parser.add_argument("--output", type=Path, default=Path("outputs/content_study"))
    options = parser.parse_args()
    for name in ("captions", "tune_captions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")

    try:
        classes = study.captions_by_class(options.captions, seed=5)
        training = study.captions_by_class(options.tune_captions, seed=11, held_out=False)
    except ValueError as error:
        parser.error(str(error))
    try:
        config = load_config(options.config)
        if not isinstance(config.cache, AdaCacheConfig):
            raise ConfigError(f"{options.config} does not use AdaCache; give a config that does")
        pipe = SamplingPipeline.from_config(config)
    except (ConfigError, WeightsError) as error:
        sys.exit(f"error: {error}")
    limit_threads(pipe.model)
    adacache, steps = pipe.cache, pipe.scheduler.num_sampling_steps
    tuning = [caption for captions in training.values() for caption in captions]
    schedules = [
        study.sample_with(pipe, adacache, caption, seed).trace.computed_steps
        for seed, caption in enumerate(tqdm(tuning, desc="fixed list"))
    ]
    length = sum(map(len, schedules)) // len(schedules)
    caches = {"adacache": adacache}
    for label, count in (("short", length), ("long", length + 1)):
        caches[label] = study.fixed_list(schedules, steps, count)
        print(f"fixed list: {', '.join(map(str, caches[label].computed_steps))}")
    rows = []
    jobs = [(name, caption) for name, captions in classes.items() for caption in captions]
    for seed, (name, caption) in enumerate(tqdm(jobs, desc="sampling")):
        full = study.sample_with(pipe, study.observing(adacache), caption, seed)
        row = {"class": name, "caption": caption, "seed": seed}
        row["distances"] = [record.distance for record in full.trace.records if record.distance is not None]
        for label, cache in caches.items():
            sampled = study.sample_with(pipe, cache, caption, seed)
            row[f"computed_{label}"] = sampled.trace.num_computed
            row[f"psnr_{label}"] = psnr(sampled.frames, full.frames)
        rows.append(row)
    mean_steps = sum(row["computed_adacache"] for row in rows) / len(rows)
    for row in rows:
        row["gain"] = row["psnr_adacache"] - study.at_equal_compute(row, mean_steps)
    summary = study.summarize(rows)
    print(f"{'class':<12}{'mean change':>12}{'steps':>8}{'AdaCache dB':>13}{'over fixed lists':>18}")
    for name, values in summary.items():
        change = sum(values["distances"]) / len(values["distances"])
        print(
            f"{name:<12}{change:>12.4f}{values['computed_adacache']:>8.1f}"
            f"{values['psnr_adacache']:>13.1f}{values['gain']:>+15.1f} dB"
        )
    gains = [row["gain"] for row in rows]
    error = stdev(gains) / len(gains) ** 0.5
    print(
        f"over fixed lists of as many steps ({mean_steps:.1f}): {sum(gains) / len(gains):+.1f} +- {error:.1f} dB (s.e.)"
    )
    share = study.spread_shares(rows)
    print(f"share of the variance of log change that lies between classes: {share:.0%}")
    options.output.mkdir(parents=True, exist_ok=True)
    study.plot(summary, options.output / "curves.png")
    with atomic_path(options.output / "rows.json") as temporary:
        temporary.write_text(json.dumps({"between_classes": share, "rows": rows}, indent=1) + "\n")
    print(f"wrote {options.output}/curves.png and rows.json")


if __name__ == "__main__":
    main()
