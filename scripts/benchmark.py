#!/usr/bin/env python3
"""What the cache costs and saves, measured on this machine.

Parts: steps   a computed and a reused step of STDiT3-XL/2 at 144p (random weights), and the controller's own work
       memory  bytes the controller holds at full size and on the bundled model, beside those that were promised and
               those of caching per block (no weights needed)
       flops   operations of a step and of a run at full size (no weights needed)
       mini    the bundled model: loading, first frame and video, computed and reused steps, the controller's own work,
               bytes of its caches, the whole command
       compile the bundled model: a computed step with and without torch.compile, measured in turns
       prompts runs of 100 to 100,000 prompts without a model: their start, a sample, memory
       quality the bundled model: computed steps and PSNR to the uncached video, for several codebooks

Without --parts those run that take about two minutes together: memory, flops, mini and compile; "all" takes all seven.
Times are medians of repeated samples, without warm-up. What is compared within a part is measured in turns, and its
ratio taken turn by turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from bench.timing import DEFAULT_PARTS, PARTS  # noqa: E402
from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.errors import run_command  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parse_options(arguments)
    from bench.timing.parts import run_parts

    return run_command(lambda: run_parts(options))


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "all"), help=f"default: {' '.join(DEFAULT_PARTS)}")
    parser.add_argument(
        "--repeats", type=int, help="samples of each time (default: as many as each needs, 5 to 200); 1 for a quick try"
    )
    parser.add_argument("--captions", type=int, default=32, help="videos per codebook of the part quality")
    parser.add_argument(
        "--no-command",
        action="store_true",
        help="leave the whole command out of the part mini: it sets up its environment, which takes long in a new "
        "checkout, and moves the package of an active environment to it",
    )
    parser.add_argument(
        "--save",
        "--output",
        type=Path,
        default=Path("outputs/benchmark.json"),
        metavar="FILE",
        help="write figures, samples, machine and commit as JSON (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for name in ("repeats", "captions"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} is {value}; give at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
