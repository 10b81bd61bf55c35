#!/usr/bin/env python3
"""Compare where steps are computed and how gaps are bridged, at 8 to 20 of 30 computed steps, on the mini model.

Placements: the paper's AdaCache (codebooks tuned to each count on training captions), the fixed list that is its
average, and the calibrated schedules; each with every bridge. Controls: as many Euler steps without a cache. Writes
the tables and all numbers; run again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import explain_missing_packages  # noqa: E402

explain_missing_packages()

MANY_STEPS = 200
BATCH = 8


def main() -> None:
    """Tune, sample, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=32, help="held-out captions")
    parser.add_argument("--seeds", type=int, default=2, help="clips per caption")
    parser.add_argument("--calibration", default="assets/opensora-mini/calibration.json")
    parser.add_argument("--output", type=Path, default=Path("outputs/placement_study"))
    options = parser.parse_args()
    for name in ("captions", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; give at least 1")

    from tqdm import tqdm

    from adacache.calibration.calibration import Calibration
    from adacache.calibration.plan import Clip
    from adacache.calibration.runner import Runner
    from bench.studies import placement as study
    from bench.studies.content import captions_by_class
    from bench.tuning import adacache_at
    from mini.world.captions import held_out_captions
    from opensora.cli.calibrate import PipelineClips
    from opensora.config.conditions import fingerprint
    from opensora.device import limit_threads
    from opensora.files import find_path
    from opensora.pipeline import SamplingPipeline

    path = find_path(options.calibration)
    if path is None:
        parser.error(f"there is no file {options.calibration}; scripts/calibrate.py writes one")
    try:
        calibration = Calibration.load(path)
    except ValueError as error:
        parser.error(str(error))
    pipe = SamplingPipeline.from_config(ROOT / "configs/mini/sample_adacache.py")
    limit_threads(pipe.model)
    options.output.mkdir(parents=True, exist_ok=True)

    texts = [text for texts in captions_by_class(2, 11, held_out=False).values() for text in texts]
    training = [Clip(text, i) for i, text in enumerate(texts)]
    prompts = held_out_captions(options.captions, seed=17)
    clips = [Clip(prompt, 1000 * (draw + 1) + i) for draw in range(options.seeds) for i, prompt in enumerate(prompts)]
    setting = (
        f"{options.captions} captions x {options.seeds} seeds, weights {fingerprint(pipe.config.model.from_pretrained)}"
    )
    with tqdm(desc="clips", unit="clip") as bar:
        runner = Runner(PipelineClips(pipe), BATCH, bar.update)
        tuned = {count: adacache_at(runner, pipe.cache, training, count) for count in study.COUNTS}
        schedules = {count: study.schedules_of(runner, policy, training) for count, policy in tuned.items()}
        references = {"uncached": runner.exact_frames(clips)}
        with runner.sampler.steps(MANY_STEPS):
            references["exact"] = runner.exact_frames(clips)
        policies = [
            *study.combinations(tuned, schedules, calibration, runner.num_steps),
            *(("Euler steps, no cache", count, None) for count in study.COUNTS),
        ]
        outcomes = study.compare(runner, policies, clips, references, options.output / "finished.jsonl", setting)
    rows = study.differences(outcomes, clips)
    uncached = study.against_exact(references)
    study.save(
        rows,
        options.output / "placement.json",
        captions=options.captions,
        seeds=options.seeds,
        uncached_to_exact=uncached,
        codebooks={count: policy.codebook.to_dict() for count, policy in tuned.items()},
    )
    study.plot(rows, options.output / "placement.png", uncached)
    print(f"PSNR to the uncached video of {runner.num_steps} steps; below the first line differences to it, 95 % int.")
    print(study.markdown(rows, "to_uncached"))
    print(f"\nPSNR to {MANY_STEPS} steps (the uncached video itself: {uncached:.1f} dB)")
    print(study.markdown(rows, "to_exact"))
    print(f"wrote {options.output}/placement.json and placement.png")


if __name__ == "__main__":
    main()
