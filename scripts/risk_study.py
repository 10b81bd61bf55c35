#!/usr/bin/env python3
"""Show how well the risk of a draft tells how much its cache changed it, beside other candidates.

Makes drafts of the mini model, of training captions (on which the risk was chosen) and of held-out ones, under the
calibrated schedule and the official codebook. Writes the numbers and prints a table for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import explain_missing_packages  # noqa: E402

explain_missing_packages()

CONFIG = ROOT / "configs/mini/sample_adacache.py"


def main() -> None:
    """Sample, summarize, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=2, help="captions per class of content, of either side")
    parser.add_argument("--seeds", type=int, default=6, help="drafts per caption")
    parser.add_argument("--output", type=Path, default=Path("outputs/risk_study"))
    options = parser.parse_args()
    for name, least in (("captions", 1), ("seeds", 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; give at least {least}")

    from tqdm import tqdm

    from adacache.atomic import atomic_path
    from bench.studies import risk as study
    from bench.studies.content import captions_by_class
    from opensora.config.loading import load_config
    from opensora.device import limit_threads
    from opensora.pipeline import SamplingPipeline

    try:
        sides = {
            side: [
                text
                for texts in captions_by_class(options.captions, seed, side != "training").values()
                for text in texts
            ]
            for side, seed in (("training", 4), ("held-out", 5))
        }
    except ValueError as error:
        parser.error(str(error))
    drafting = load_config(CONFIG, {"draft": 1, "verbose": 0})
    caches = {
        "calibrated": replace(drafting.cache, motion_strides=(1,)),  # motion is only a candidate
        "fast30": load_config(CONFIG, {"draft": 1, "verbose": 0}, {"calibration": None}).cache,
    }
    pipe = SamplingPipeline.from_config(drafting)
    limit_threads(pipe.model)
    result = {}
    total = sum(map(len, sides.values())) * options.seeds * (1 + len(caches))
    with tqdm(total=total, unit="video") as progress:
        for index, (side, captions) in enumerate(sides.items()):
            first_seed = 1000 + index * len(captions) * options.seeds
            drafts = study.measure(pipe, caches, captions, options.seeds, first_seed, progress)
            result[side] = {name: study.summarize(found) for name, found in drafts.items()}
    for side, summaries in result.items():
        for name, summary in summaries.items():
            print(f"\n{side} captions ({len(sides[side])} x {options.seeds} seeds), {name}\n{study.markdown(summary)}")
    options.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.output / "risk.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(f"\nwrote {options.output}/risk.json")


if __name__ == "__main__":
    main()
