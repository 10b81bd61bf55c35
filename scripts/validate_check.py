#!/usr/bin/env python3
"""How far the caption check can be trusted: right on real clips, not fooled by captions with one wrong word.

Real held-out clips of several lengths and sizes, crisp and soft, are compared with their own captions and with
captions that differ from them in one attribute. Exits with 1 if an item is right on fewer than 98 % of the clips or
more than 2 % of the wrong captions of a kind are accepted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402


def main() -> int:
    """Run the command and return its exit code."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300, help="number of held-out scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes and the noise")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="such as 17x128x128 or soft; all by default")
    options = parser.parse_args()
    if options.clips < 1:
        parser.error(f"--clips is {options.clips}; use at least one")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}; use 0 or more")

    from mini.check.validate import VARIANTS, report

    for name in options.variants or ():
        if name not in VARIANTS:
            parser.error(f"--variants: there is no '{name}'; known: {', '.join(VARIANTS)}")
    return report(options.clips, options.seed, options.variants or list(VARIANTS))


if __name__ == "__main__":
    sys.exit(main())
