#!/usr/bin/env python3
"""Compare cache policies at equal compute: `python scripts/bench.py configs/bench/mini.py`; --help lists the flags."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# A checkout that is not installed works, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import CfgOptions, OneLineParser  # noqa: E402
from opensora.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated, run_command  # noqa: E402

logger = logging.getLogger(__name__)


def build_parser() -> OneLineParser:
    """The flags of this command."""
    parser = OneLineParser(
        description="Compare cache policies at equal compute: same prompts, same seeds, one process.",
        epilog="A bench that was stopped continues where it was; its results so far are written all the same.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="plan of the bench, such as configs/bench/mini.py")
    parser.add_argument("--sample", metavar="CONFIG", help="sampling config, with its own prompts")
    parser.add_argument("--prompt-path", metavar="FILE", help="prompts, one per line")
    parser.add_argument("--tuning-prompt-path", metavar="FILE", help="prompts that budgets are tuned on")
    parser.add_argument("--prompts", type=int, metavar="N", help="how many prompts")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds of each prompt")
    parser.add_argument("--budgets", type=int, nargs="+", metavar="N", help="computed steps that policies are tuned to")
    parser.add_argument("--policies", nargs="+", metavar="NAME", help="which of the plan's policies")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (outputs/bench/NAME)")
    parser.add_argument("--budget-minutes", type=float, metavar="M", help="run as much as fits into this many minutes")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: CUDA when there is one)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--verbose", action="store_true", help="say what tuning tries")
    parser.add_argument(
        "--cfg-options", nargs="+", action=CfgOptions, metavar="KEY=VALUE", help="any entry of the sampling config"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.budget_minutes is not None and not options.budget_minutes > 0:
        parser.error(f"--budget-minutes is {options.budget_minutes:g}; give more than 0")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in ("opensora", "adacache"):
        logging.getLogger(name).setLevel(logging.DEBUG if options.verbose else logging.INFO)
    logging.getLogger("opensora.config.target").setLevel(logging.WARNING)  # it announces every calibrated schedule
    return run_command(lambda: run_bench(options, shlex.join(["python", "scripts/bench.py", *arguments])), resumes=True)


def run_bench(options: argparse.Namespace, command: str) -> int:
    """Measure, write the results and print their tables."""
    from bench.plan import read_plan
    from bench.setting import bench_prompts, load_sample_config

    started = time.monotonic()
    plan = read_plan(options.config).with_changes(
        sample=options.sample,
        prompts=options.prompt_path,
        tuning_prompts=options.tuning_prompt_path,
        policies=options.policies,
        sample_options=options.cfg_options,
        num_prompts=options.prompts,
        num_seeds=options.seeds,
        budgets=options.budgets,
    )
    config = load_sample_config(plan, options.device)
    prompts, tuning = bench_prompts(plan, config)

    from bench.bench import Bench

    folder = options.output or Path("outputs/bench") / plan.name
    bench = Bench(plan, config, prompts, tuning, folder, command)
    deadline = None if options.budget_minutes is None else started + 60 * options.budget_minutes
    code = 0
    try:
        bench.measure(deadline)
    except KeyboardInterrupt as error:
        code = EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        logger.warning("interrupted")
    tables = bench.finish(options.markdown)
    if tables is not None:
        print(tables)
    return code


if __name__ == "__main__":
    sys.exit(main())
