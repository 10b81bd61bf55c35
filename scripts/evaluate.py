#!/usr/bin/env python3
"""Measure how close sampled videos are to reference videos of the same names, e.g. cached ones to uncached ones.

Reads the lossless *.frames.npz that sampling with --save-frames keeps if both sides have them, else mp4 or png.
Prints PSNR, SSIM, MS-SSIM and flicker per video and on average with 95 % intervals; of the mini model's videos also the
caption check, and LPIPS where the package lpips is installed.

Exit code: 0 if every video was compared, 1 if some were not (they are listed with the reason), 2 for an error.
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

from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.errors import run_command  # noqa: E402
from opensora.files import make_output_folder  # noqa: E402

EXIT_INCOMPLETE = 1


def build_parser() -> OneLineParser:
    """The flags of this command."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("reference", type=Path, metavar="DIR_REFERENCE", help="folder of the reference videos")
    parser.add_argument("samples", type=Path, metavar="DIR_SAMPLES", help="folder of the videos to measure")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the results, as .json or .csv")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Compare, print, write."""
    from bench.compare.evaluate import check_format, evaluate, remarks, table, write

    if options.output:
        check_format(options.output)
        make_output_folder(options.output.parent, "--output")
    evaluation = evaluate(options.reference, options.samples)
    print(table(evaluation))
    if text := remarks(evaluation):
        print(f"\n{text}")
    if options.output:
        write(evaluation, options.output)
        print(f"wrote {options.output}")
    return EXIT_INCOMPLETE if evaluation.not_compared else 0


if __name__ == "__main__":
    sys.exit(main())
