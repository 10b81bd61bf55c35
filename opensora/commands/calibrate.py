"""Find out which steps of a model need not be computed, what stands in for them, and what that costs in quality.

Runs a few prompts with every step computed, searches for the steps that matter, fits which combination of the model's
last outputs bridges each gap, and measures the result on other prompts. Writes calibration.json, calibrated.py (a
config that uses it) and calibration.png. From then on --speedup, --max-steps-computed or --min-psnr take the place of a
codebook. An interrupted calibration resumes when the same command is run again.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from opensora.cli.arguments import CfgOptions, OneLineParser
from opensora.errors import ConfigError, run_command

DEFAULT_TARGET = ("speedup", 2.0)
PARTIAL = "calibration.partial.json"  # finished parts, until all is written


def build_parser() -> OneLineParser:
    """Return the parser of this command."""
    parser = OneLineParser(
        description=__doc__,
        epilog="example: %(prog)s configs/mini/sample.py --prompt-path assets/prompts/mini_calibration.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="config of the model to calibrate; its cache is ignored")
    parser.add_argument("--output", type=Path, default=Path("outputs/calibration"), help="folder of the results")
    parser.add_argument("--prompt-path", metavar="FILE", help="prompts, one per line (default: the config's)")
    parser.add_argument(
        "--aim",
        choices=("repeat", "solution"),
        default="repeat",
        help="what to approximate: the video with every step computed, or the exact solution that many more steps "
        "would give (default: %(default)s)",
    )
    parser.add_argument("--fit-clips", type=int, default=4, metavar="N", help="clips to fit to (default 4)")
    parser.add_argument(
        "--held-out-clips", type=int, default=8, metavar="N", help="other clips, to measure the curve (default 8)"
    )
    parser.add_argument(
        "--candidates", type=int, default=3, metavar="N", help="lists of computed steps tried per count (default 3)"
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="clips sampled together")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--speedup", type=float, metavar="X", help="target of the config that is written (default 2)")
    target.add_argument("--max-steps-computed", type=int, metavar="N", help="this target as the most computed steps")
    target.add_argument("--min-psnr", type=float, metavar="DB", help="this target as a quality")
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="any config entry")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    for name in ("fit_clips", "held_out_clips", "candidates", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("opensora").setLevel(logging.INFO)
    return run_command(lambda: run(options), resumes=True)


def run(options: argparse.Namespace) -> int:
    """Calibrate, write the results, and check that the target can be met."""
    from adacache.calibration.plan import split_clips
    from adacache.calibration.target import TARGETS, Target
    from opensora.config.entries import find_config
    from opensora.config.loading import besides_cache, load_without_cache
    from opensora.files import make_output_folder
    from opensora.prompts.run_prompts import plain_texts

    wishes = ((name, getattr(options, name)) for name in TARGETS)
    try:
        target = Target(*next(((name, value) for name, value in wishes if value is not None), DEFAULT_TARGET))
    except ValueError as error:
        raise ConfigError(f"command line: {error}") from error
    for name in TARGETS:
        if name in (options.cfg_options or {}):
            raise ConfigError(f"command line: {name} is a flag of this command; give --{name.replace('_', '-')}")
    if "calibration" in (options.cfg_options or {}):
        raise ConfigError("command line: calibration is what this command writes; leave it out")
    given = besides_cache(options.cfg_options or {})
    config = load_without_cache(options.config, {"prompt_path": options.prompt_path}, given)
    try:
        target.check_possible(config.scheduler.num_model_calls)
    except ValueError as error:
        raise ConfigError(f"command line: {error}") from error
    texts = plain_texts(config)
    try:
        fit, held_out = split_clips(texts, options.fit_clips, options.held_out_clips, config.seed)
    except ValueError as error:
        raise ConfigError(f"{error}; give a file with more by --prompt-path") from error
    from tqdm import tqdm

    from adacache.calibration.plan import CalibrationPlan
    from opensora.cli.calibrate import SNIPPET, calibrate_sampler, curve_table, write_calibration
    from opensora.device import limit_threads
    from opensora.pipeline import SamplingPipeline

    if find_config(options.config).resolve() == (options.output / SNIPPET).resolve():
        raise ConfigError(f"{options.config} would be overwritten; choose another folder with --output")
    folder = make_output_folder(options.output, "--output")
    plan = CalibrationPlan(fit, held_out, options.aim, options.candidates, options.batch_size)
    pipe = SamplingPipeline.from_config(config)
    limit_threads(pipe.model)
    total = plan.num_calls(config.scheduler.num_model_calls)
    print(
        f"calls of the model: {total:,} (fitting on {len(fit)} clips, measuring on {len(held_out)} others)", flush=True
    )
    with tqdm(total=total, desc="calls", unit="call") as bar:
        calibration = calibrate_sampler(pipe, plan, bar.update, folder / PARTIAL)
    # The target may be out of reach; what was measured is kept all the same.
    write_calibration(calibration, folder, find_config(options.config), given, (target.kind, target.value))
    (folder / PARTIAL).unlink()
    print(curve_table(calibration))
    try:
        schedule = target.resolve(calibration, calibration.timesteps)
    except ValueError as error:
        raise ConfigError(f"{error}; the calibration itself is in {folder}") from error
    print(f"{target.kind} {target.value:g}: computed steps {list(schedule.computed_steps)}")
    print(f"wrote {folder}/calibration.json, calibrated.py, calibration.png")
    return 0
