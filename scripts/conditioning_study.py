#!/usr/bin/env python3
"""Compare upstream's caching with ours where a part of the video is given, on the mini model and held-out clips.

An image is made to move, a clip is extended, two of five latent frames are edited from half of the time on. Upstream
lets held frames count in what it measures, which makes it compute fewer steps, and reuses residuals after a frame
joined. PSNR is to the uncached video of the same noise, over frames that are generated; "at equal steps" compares with
upstream's rule under thresholds at which it would compute as many. Writes the table and all numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import explain_missing_packages  # noqa: E402

explain_missing_packages()


def main() -> None:
    """Sample, tabulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=12, help="held-out captions, one clip each")
    parser.add_argument("--batch-size", type=int, default=6, help="clips that are sampled together")
    parser.add_argument("--output", type=Path, default=Path("outputs/conditioning_study"))
    options = parser.parse_args()
    for name, least in (("captions", 2), ("batch_size", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least {least}")

    from dataclasses import asdict

    from tqdm import tqdm

    from adacache.atomic import atomic_path
    from bench.studies import conditioning as study
    from opensora.device import limit_threads
    from opensora.pipeline import SamplingPipeline

    pipe = SamplingPipeline.from_config(ROOT / "configs/mini/sample.py")
    limit_threads(pipe.model)
    caches = study.policies()
    videos = study.num_videos(caches, study.TASKS, options.captions)
    with tqdm(total=videos, desc="videos", unit="video") as bar:
        results = list(study.measure(pipe, caches, study.TASKS, options.captions, options.batch_size, bar))
    rows = study.summarize(results)
    print(
        f"{options.captions} held-out captions, {pipe.scheduler.num_sampling_steps} steps; 95 % intervals over captions"
    )
    print(study.markdown(rows))
    options.output.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.output / "conditioning.json") as temporary:
        found = {"captions": options.captions, "rows": rows, "results": [asdict(result) for result in results]}
        temporary.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {options.output}/conditioning.json")


if __name__ == "__main__":
    main()
