"""Predict several GPUs: `python scripts/scaling.py [--plot docs/images/scaling.png]`; counts, no GPU is needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout that is not installed works, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.cli.arguments import OneLineParser  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is counted and predicted; the exit code."""
    parser = OneLineParser(description="Predict how much faster several GPUs would sample a video, from counted work.")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also a picture (.png)")
    chosen = parser.parse_args(arguments)
    if chosen.plot is not None and not chosen.plot.absolute().parent.is_dir():
        parser.error(f"--plot {chosen.plot}: there is no folder {chosen.plot.parent}; make it first")

    from tqdm import tqdm

    from bench.timing.scaling import (
        PUBLISHED,
        SHAPES,
        SPLITS_ALONE,
        count_table,
        count_video,
        plot,
        prediction_table,
        predictions,
    )

    found = []
    for setting in PUBLISHED:
        shapes = tqdm((*SHAPES, *SPLITS_ALONE), desc=setting.resolution, leave=False)
        works = [count_video(setting.resolution, shape) for shape in shapes]
        results = predictions(setting, works)
        found.append((setting, results))
        print(f"## {setting.title}\n\nCounted, for the busiest process:\n\n{count_table(works)}\n")
        print(f"Predicted:\n\n{prediction_table(results)}\n")
    if chosen.plot is not None:
        print(f"wrote {plot(found, chosen.plot)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
