#!/usr/bin/env python3
"""Make the page and the picture of a bench again, from the bench.json and the videos of its folder."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402


def main() -> None:
    """Read the folder, write the page and the picture, say where they are."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of scripts/bench.py")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s")

    from bench.report import draw, render

    try:
        page, picture = render(options.folder), draw(options.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB) and {picture.name}")


if __name__ == "__main__":
    main()
