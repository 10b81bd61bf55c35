#!/usr/bin/env python3
"""Measure how close sampled videos are to reference videos of the same names, e.g. cached ones to uncached ones.

Reads the lossless *.frames.npz that sampling with --save-frames True keeps if both sides have them, else mp4 or png.
Prints PSNR, SSIM, MS-SSIM and flicker per video and on average with 95 % intervals; of the mini model's videos also the
caption check, and LPIPS where the package lpips is installed.

Exit code: 0 if every video was compared, 1 if some were not (they are listed with the reason), 2 for an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.errors import run_command  # noqa: E402
from opensora.files import make_output_folder  # noqa: E402

if TYPE_CHECKING:
    from bench.compare.vbench import VBenchExport

EXIT_INCOMPLETE = 1


def build_parser() -> OneLineParser:
    """The flags of this command."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("reference", type=Path, metavar="DIR_REFERENCE", help="folder of the reference videos")
    parser.add_argument("samples", type=Path, metavar="DIR_SAMPLES", help="folder of the videos to measure")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the results, as .json or .csv")
    parser.add_argument(
        "--export", nargs=2, metavar=("vbench", "FOLDER"), help="copy the samples to a folder that VBench can evaluate"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.export and options.export[0] != "vbench":
        parser.error(f"--export knows 'vbench' only, got '{options.export[0]}'")
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Export, compare, print, write."""
    from bench.compare.evaluate import check_format, evaluate, remarks, table, write
    from bench.compare.vbench import export_vbench

    if options.output:
        check_format(options.output)
        make_output_folder(options.output.parent, "--output")
    # Before the comparison, which takes long: a folder that is refused is to be refused at once.
    exported = export_vbench(options.samples, Path(options.export[1])) if options.export else None
    evaluation = evaluate(options.reference, options.samples)
    print(table(evaluation))
    if text := remarks(evaluation):
        print(f"\n{text}")
    if options.output:
        write(evaluation, options.output)
        print(f"wrote {options.output}")
    complete = not evaluation.not_compared
    if exported:
        complete &= tell_export(exported)
    return 0 if complete else EXIT_INCOMPLETE


def tell_export(exported: VBenchExport) -> bool:
    """Say what was copied for VBench and what was left out; whether the latter was nothing."""
    folder = exported.folder
    print(f"copied {len(exported.prompts)} videos to {folder}/videos and wrote {folder}/prompts.json")
    for note in exported.notes:
        print(f"note: {note}")
    for clip in exported.left_out:
        print(f"not exported: {clip.name} has {clip.reason}")
    return not exported.left_out


if __name__ == "__main__":
    sys.exit(main())
