#!/usr/bin/env python3
"""Show whether correcting a fixed list of computed steps online, by distance and motion, pays.

Measures on training captions what to expect, then samples held-out captions of every class with the mini model: every
step computed, under fixed lists, and under the same lists with every correction. Writes the numbers and a table.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Sample, summarize, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs/mini/sample_adacache.py"))
    parser.add_argument("--captions", type=int, default=5, help="held-out captions per class")
    parser.add_argument("--seeds", type=int, default=1, help="videos per caption")
    parser.add_argument("--tune-captions", type=int, default=2, help="training captions per class for what to expect")
    parser.add_argument("--output", type=Path, default=Path("outputs/online_study"))
    options = parser.parse_args()
    for name in ("captions", "seeds", "tune_captions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")

    from tqdm import tqdm

    from adacache import AdaCacheConfig
    from adacache.atomic import atomic_path
    from bench.studies import online as study
    from bench.studies.content import captions_by_class
    from opensora.config.loading import load_config
    from opensora.device import limit_threads
    from opensora.errors import ConfigError, WeightsError
    from opensora.pipeline import SamplingPipeline
    from opensora.weights.checkpoint import CheckpointError

    try:
        held_out = captions_by_class(options.captions, seed=7)
        training = captions_by_class(options.tune_captions, seed=11, held_out=False)
    except ValueError as error:
        parser.error(str(error))
    try:
        config = load_config(options.config)
        if not isinstance(config.cache, AdaCacheConfig):
            raise ConfigError(f"{options.config} does not use AdaCache; give a config that does")
        if config.scheduler.num_sampling_steps != study.NUM_STEPS:
            raise ConfigError(f"the lists are made for {study.NUM_STEPS} steps; give a config with as many")
        pipe = SamplingPipeline.from_config(config)
    except (ConfigError, WeightsError, CheckpointError) as error:
        sys.exit(f"error: {error}")
    limit_threads(pipe.model)
    tuning = study.clips_of(training, 1, first_seed=0)
    clips = study.clips_of(held_out, options.seeds, first_seed=len(tuning))
    policies = 1 + len(study.PLANS) * (1 + len(study.CORRECTIONS))  # and the uncached videos
    with tqdm(total=len(tuning) + len(clips) * policies, desc="what to expect") as progress:
        expectation = study.expect(pipe, config.cache.metric_blocks, tuning, progress)
        caches = study.policies(expectation, config.cache.metric_blocks)
        rows = study.measure(pipe, caches, clips, progress)
    summary = study.summarize(rows)
    print(study.markdown(summary))
    options.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.output / "online.json") as temporary:
        result = {"expectation": asdict(expectation), "summary": summary, "rows": rows}
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"wrote {options.output}/online.json")


if __name__ == "__main__":
    main()
