#!/usr/bin/env python3
"""Measure what TeaCache and MagCache have to know about a model: a polynomial, and magnitude ratios.

Runs some prompts without reuse and prints both policies as they stand in a config; writes policy_calibration.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import CfgOptions, OneLineParser  # noqa: E402
from opensora.errors import ConfigError, run_command  # noqa: E402
from opensora.files import make_output_folder  # noqa: E402

GOOD_FIT = 0.5  # R^2; published fits of other models that people asked about had 0.1 to 0.7


def build_parser() -> OneLineParser:
    """The flags of this command."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="config of the model; its cache is ignored")
    parser.add_argument("--prompt-path", metavar="FILE", help="prompts, one per line (default: the config's)")
    parser.add_argument("--clips", type=int, default=16, metavar="N", help="videos to run")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="videos sampled together")
    parser.add_argument("--output", type=Path, default=Path("outputs/policy_calibration.json"), metavar="FILE")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="any config entry")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("clips", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("opensora").setLevel(logging.INFO)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Sample, fit, write, print."""
    from opensora.config.loading import load_without_cache
    from opensora.config.schema import SchedulerConfig
    from opensora.prompts.run_prompts import plain_texts

    config = load_without_cache(options.config, {"prompt_path": options.prompt_path}, options.cfg_options)
    if not isinstance(config.scheduler, SchedulerConfig):
        raise ConfigError(
            f"{options.config}: TeaCache and MagCache are fitted on STDiT3 alone, not {config.model.type}"
        )
    prompts = plain_texts(config)
    make_output_folder(options.output.parent, "--output")
    if options.output.is_dir():
        raise ConfigError(f"--output {options.output} is a folder; name a file in it")

    from tqdm import tqdm

    from adacache.atomic import atomic_path
    from adacache.calibration.plan import Clip
    from adacache.calibration.runner import Runner
    from bench.tuner import calibrate_policies
    from opensora.cli.calibrate import PipelineClips
    from opensora.device import limit_threads
    from opensora.pipeline import SamplingPipeline

    pipe = SamplingPipeline.from_config(config)
    limit_threads(pipe.model)
    clips = [Clip(prompts[i % len(prompts)], config.seed + i) for i in range(options.clips)]
    try:
        with tqdm(total=len(clips), desc="clips", unit="clip") as bar:
            fit = calibrate_policies(Runner(PipelineClips(pipe), options.batch_size, bar.update), clips)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with atomic_path(options.output) as temporary:
        temporary.write_text(json.dumps(fit.to_dict(), indent=1) + "\n", encoding="utf-8")
    if fit.teacache_r2 < GOOD_FIT:
        print(f"WARNING: the polynomial explains {fit.teacache_r2:.0%} of the output's change; TeaCache will guess")
    coefficients = [float(f"{value:.9g}") for value in fit.teacache_coefficients]
    print(
        f"# polynomial of degree {len(coefficients) - 1}, R^2 {fit.teacache_r2:.2f}; raise the threshold to reuse more"
    )
    print(f"cache = dict(policy='teacache', coefficients={coefficients}, threshold=0.1)")
    print(f"# ratios differ by {fit.magcache_spread:.4f} between videos (standard deviation)")
    ratios = [round(value, 5) for value in fit.magcache_ratios]
    print(f"cache = dict(policy='magcache', ratios={ratios}, threshold=0.12)")
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
