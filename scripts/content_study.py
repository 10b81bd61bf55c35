#!/usr/bin/env python3
"""Show per class of content how fast residuals change, and whether adapting the schedule to that pays.

Samples a few held-out captions of every class with the mini model: with every step computed, under AdaCache, and under
fixed lists of steps that are AdaCache's average on training captions. Writes a plot and the numbers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402
from opensora.errors import run_command  # noqa: E402


def main() -> int:
    """Sample, summarize, draw."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(ROOT / "configs/mini/sample_adacache.py"))
    parser.add_argument("--captions", type=int, default=6, help="held-out captions per class")
    parser.add_argument("--tune-captions", type=int, default=3, help="training captions per class for the fixed list")
    parser.add_argument("--output", type=Path, default=Path("outputs/content_study"))
    options = parser.parse_args()
    for name in ("captions", "tune_captions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give at least 1")

    from bench.content import study

    return run_command(lambda: study(options.config, options.captions, options.tune_captions, options.output))


if __name__ == "__main__":
    sys.exit(main())
