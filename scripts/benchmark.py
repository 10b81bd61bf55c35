#!/usr/bin/env python3
"""What the cache costs and saves, measured on this machine, and how two commits differ in it.

Parts: steps   a computed and a reused step of STDiT3-XL/2 at 144p (random weights), and the controller's own work
       memory  bytes the controller holds at full size and on the bundled model, beside those that were promised and
               those of caching per block (no weights needed)
       flops   operations of a step and of a run at full size (no weights needed)
       mini    the bundled model: loading, first frame and video, computed and reused steps, the controller's own work,
               bytes of its caches, the whole command
       compile the bundled model: a computed step with and without torch.compile, measured in turns
       quality the bundled model: computed steps and PSNR to the uncached video, for several codebooks

Without --parts those run that take about two minutes together: memory, flops, mini and compile; "all" takes all six.
Times are medians of repeated samples, without warm-up. What is compared within a part is measured in turns, and its
ratio taken turn by turn.

Two commits are compared by a run on each:

    git switch BEFORE && python scripts/benchmark.py --save before.json
    git switch AFTER && python scripts/benchmark.py --compare before.json

Every turn also times a yardstick, a fixed workload of PyTorch. The table gives plain ratios, and those of the times as
multiples of the yardstick's: the machine, which may have been faster or slower in one of the runs, cancels in these.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import explain_missing_packages  # noqa: E402

explain_missing_packages()

from opensora.errors import ConfigError, run_command  # noqa: E402

if TYPE_CHECKING:
    from bench.timing.record import Record

PARTS = ("steps", "memory", "flops", "mini", "compile", "quality")
DEFAULT_PARTS = ("memory", "flops", "mini", "compile")
DEFAULT_FILE = Path("outputs/benchmark.json")
EXIT_SLOWER = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse_options(arguments)
    return run_command(lambda: compare_runs(options) if options.compare else run_parts(options))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; options that say how to run are None where they were not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "all"), help=f"default: {' '.join(DEFAULT_PARTS)}")
    parser.add_argument(
        "--repeats", type=int, help="samples of every time (default: as many as each needs, 5 to 200); 1 is for a try"
    )
    parser.add_argument("--captions", type=int, help="videos per codebook of the part quality (default: 32)")
    parser.add_argument(
        "--no-command",
        action="store_true",
        default=None,
        help="leave the whole command out of the part mini: it sets up its environment, which takes long in a new "
        "checkout, and moves the package of an active environment to it",
    )
    parser.add_argument(
        "--save",
        "--output",
        type=Path,
        metavar="FILE",
        help=f"write figures, samples, machine and commit as JSON (default: {DEFAULT_FILE}, none with --compare)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar=("BEFORE", "AFTER"),
        help="compare with the run that a file holds: this one, with the same parts and repeats unless others are "
        "given, or that of a second file",
    )
    parser.add_argument(
        "--fail-above",
        type=float,
        metavar="RATIO",
        help="end a comparison with exit code 1 where a time's ratio is above, with all of its interval",
    )
    options = parser.parse_args(arguments)
    for name in ("repeats", "captions"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    if options.fail_above is not None and not options.compare:
        parser.error("--fail-above needs --compare")
    if options.fail_above is not None and not 0 < options.fail_above < math.inf:
        parser.error(f"--fail-above is {options.fail_above}; give a positive ratio such as 1.1")
    if options.compare and len(options.compare) > 2:
        parser.error(f"--compare takes one or two files, got {len(options.compare)}")
    if options.compare and len(options.compare) == 2:
        given = [name for name in ("parts", "repeats", "captions", "no_command", "save") if getattr(options, name)]
        if given:
            parser.error(f"two files are compared without a run; leave out --{given[0].replace('_', '-')}")
    if options.compare and options.save and options.save.resolve() == options.compare[0].resolve():
        parser.error(f"--save would overwrite {options.save}, which is compared with; choose another file")
    return options


def run_parts(options: argparse.Namespace) -> int:
    """Run the chosen parts, print their figures and write them."""
    file = options.save or DEFAULT_FILE
    measure(options.parts or DEFAULT_PARTS, settings_of(options, {}), file)
    print(f"wrote {file}")
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    """Compare a file with a run of the same parts, or with another file."""
    from bench.timing.comparison import compare
    from bench.timing.record import Record
    from bench.timing.report import comparison_text

    before = Record.load(options.compare[0])
    if len(options.compare) == 2:
        after = Record.load(options.compare[1])
    else:
        parts = options.parts or [part for part in before.figures if part in PARTS]
        after = measure(parts, settings_of(options, before.settings), options.save)
        print()
    comparison = compare(before, after)
    print(comparison_text(before, after, comparison))
    if options.fail_above is None:
        return 0
    slower = comparison.slower_than(options.fail_above)
    if slower:
        print(f"slower than {options.fail_above:g} times: {', '.join(row.name for row in slower)}", file=sys.stderr)
    return EXIT_SLOWER if slower else 0


def settings_of(options: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    """What the figures depend on; what was not given is taken from `defaults`, those of an earlier run."""
    known: dict[str, Any] = {"repeats": None, "captions": 32, "no_command": False}
    given = {name: getattr(options, name) for name in known}
    return {name: defaults.get(name, value) if given[name] is None else given[name] for name, value in known.items()}


def measure(parts: Sequence[str], settings: dict[str, Any], file: Path | None) -> Record:
    """Run parts and print their figures; after each of them, what there is so far is written to `file`.

    Raises:
        ConfigError: none of the parts can be measured on this machine, or the file cannot be written.
    """
    from bench.machine import describe_machine
    from bench.timing.record import Record
    from bench.timing.report import figures_text
    from bench.timing.turns import same_threads

    record = Record(describe_machine(), settings)
    print(figures_text("machine", record.machine), flush=True)
    for part in PARTS if "all" in parts else parts:
        try:
            with same_threads():
                record.figures[part] = task_of(part, settings)()
        except ConfigError as error:
            print(f"{part} is left out: {error}", file=sys.stderr)
            continue
        print(figures_text(part, record.figures[part]), flush=True)
        if file is not None:
            record.save(file)
    if not record.figures:
        raise ConfigError("nothing was measured")
    return record


def task_of(part: str, settings: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """What measures a part; only its own libraries are imported."""
    repeats = settings["repeats"]
    if part == "steps":
        from bench.timing.steps import measure_steps

        return lambda: measure_steps(repeats)
    if part == "memory":
        from bench.timing.memory import measure_memory

        return measure_memory
    if part == "flops":
        from bench.timing.models import measure_flops

        return measure_flops
    if part == "mini":
        from bench.timing.mini import measure_mini

        return lambda: measure_mini(repeats, command=not settings["no_command"])
    if part == "compile":
        from bench.timing.steps import measure_compile

        return lambda: measure_compile(repeats)
    return lambda: measure_quality_of_caches(settings["captions"])


def measure_quality_of_caches(captions: int) -> dict[str, Any]:
    """Held-out captions under several codebooks; prints the table that the README shows."""
    from bench.timing.quality import markdown, measure_quality

    result = measure_quality(captions)
    print(markdown(result))
    return result


if __name__ == "__main__":
    sys.exit(main())
