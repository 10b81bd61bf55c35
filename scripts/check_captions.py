#!/usr/bin/env python3
"""Sample held-out captions with the mini model and check from the pixels whether the videos show them.

Prints how often each item of the check is right, with 95 % intervals, and writes a contact sheet. With --given, every
video gets its first frame, its first 17 frames or all of them from a rendered clip, and is compared with that clip.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.errors import EXIT_INTERRUPTED, ConfigError, WeightsError  # noqa: E402
from opensora.files import make_output_folder  # noqa: E402

# What is given -> its pixel frames and its mask strategy.
GIVEN = {
    "nothing": (0, ""),
    "first-frame": (1, "0,0,0,0,1,0"),
    "first-chunk": (17, "0,0,0,0,5,0"),
    "everything": (None, "0,0,0,0,1000,0"),  # what the autoencoder alone makes of rendered clips
}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs/mini/sample.py"))
    parser.add_argument("--captions", type=int, default=64, help="number of held-out captions")
    parser.add_argument("--draw", type=int, default=0, help="seed of the draw of captions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one video per caption and seed")
    parser.add_argument("--num-frames", type=int, help="1 for images, 17, 34 or 51; the config's by default")
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="such as 128 192")
    parser.add_argument("--num-sampling-steps", type=int, help="the config's by default")
    parser.add_argument("--given", choices=GIVEN, default="nothing", help="frames that are not sampled")
    parser.add_argument("--batch-size", type=int, default=8, help="without a cache only; a cache samples one by one")
    parser.add_argument("--output", type=Path, default=Path("outputs/check_captions"))
    options = parser.parse_args()
    for name in ("captions", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    if min(options.seeds) < 0 or options.draw < 0:
        parser.error("--seeds and --draw must not be negative")
    return options


def main() -> None:
    """Sample, check, report."""
    options = parse_arguments()
    from mini.check.describe import can_describe
    from mini.world.captions import held_out_captions
    from mini.world.paths import FRAMES, MIN_SIDE
    from opensora.config.loading import load_config
    from opensora.pipeline import SamplingError

    changes = {"num_frames": options.num_frames, "image_size": options.image_size and tuple(options.image_size)}
    changes["num_sampling_steps"] = options.num_sampling_steps
    try:
        config = load_config(options.config, {k: v for k, v in changes.items() if v is not None})
        if not can_describe(config.num_frames, config.height, config.width):
            raise ConfigError(
                f"the check needs {FRAMES} frames, or one, of {MIN_SIDE} x {MIN_SIDE} pixels or more, "
                f"got {config.num_frames} of {config.height} x {config.width}"
            )
        if options.given == "first-chunk" and config.num_frames < 2 * FRAMES:
            raise ConfigError(f"--given first-chunk extends a clip of {FRAMES} frames; give --num-frames 34 or 51, too")
        captions = held_out_captions(options.captions, options.draw)
        make_output_folder(options.output, "--output")
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        run(config, options, captions)
    except (ConfigError, WeightsError, SamplingError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def run(config, options: argparse.Namespace, captions: list[str]) -> None:
    """Sample all captions with all seeds and write the report, of those that are made if it ends early."""
    import numpy as np
    from tqdm import tqdm

    from adacache.calibration.quality import psnr
    from mini.check.check import check_clip
    from mini.check.report import CheckedClip
    from mini.world.captions import parse_caption
    from mini.world.paths import random_shot
    from mini.world.render import render
    from opensora.device import limit_threads
    from opensora.pipeline import SamplingPipeline

    pipe = SamplingPipeline.from_config(config)
    limit_threads(pipe.model)
    batch = 1 if pipe.cache else options.batch_size
    jobs = [(caption, i * 1000 + seed) for seed in options.seeds for i, caption in enumerate(captions)]
    clips, computed, likeness = [], [], []

    def sample(start: int) -> None:
        texts, seeds = zip(*jobs[start : start + batch], strict=True)
        given = {}
        if options.given != "nothing":
            scenes = [parse_caption(text) for text in texts]
            rngs = [np.random.default_rng(seed) for seed in seeds]
            shots = [
                random_shot(scene, rng, config.num_frames, (config.height, config.width))
                for scene, rng in zip(scenes, rngs, strict=True)
            ]
            real = [render(scene, shot).numpy() for scene, shot in zip(scenes, shots, strict=True)]
            count, strategy = GIVEN[options.given]
            given["references"] = [[pipe.encode_reference(frames[:count])] for frames in real]
            given["mask_strategies"] = [strategy] * len(texts)
        output = pipe(texts, seed=seeds, progress=False, **given)
        if given:
            pairs = zip(output.videos, real, strict=True)
            likeness.extend(list(map(psnr, video, frames)) for video, frames in pairs)  # per frame
        clips.extend(CheckedClip(v, text, check_clip(v, text)) for v, text in zip(output.videos, texts, strict=True))
        computed.extend(trace.num_computed for trace in output.traces if trace is not None)

    try:
        for start in tqdm(range(0, len(jobs), batch), desc="sampling"):
            sample(start)
    finally:
        if clips:
            report(clips, [seed for _, seed in jobs[: len(clips)]], options.output)
            if computed:
                print(f"computed steps: mean {np.mean(computed):.1f} of {pipe.scheduler.num_sampling_steps}")
            if likeness:
                print("PSNR to the rendered clip, mean over videos: " + _curve_text(np.mean(likeness, axis=0)))


def report(clips, seeds: list[int], folder: Path) -> None:
    """Print the table of all clips, and write their checks and the sheet."""
    from adacache.atomic import atomic_path
    from mini.check.report import contact_sheet, table

    print(table(clips))
    rows = [
        {"caption": clip.caption, "seed": seed, **dataclasses.asdict(clip.check), "all": clip.check.all}
        for clip, seed in zip(clips, seeds, strict=True)
    ]
    with atomic_path(folder / "checks.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")
    contact_sheet(clips, folder / "sheet.png")
    print(f"wrote {folder}/sheet.png and checks.json")


def _curve_text(curve) -> str:
    """'frame 0: 38.1 dB, ...' for some frames."""
    chosen = sorted({0, 4, 8, 16, *range(17, len(curve), 8), len(curve) - 1} & set(range(len(curve))))
    return ", ".join(f"frame {i}: {curve[i]:.1f} dB" for i in chosen)


if __name__ == "__main__":
    main()
