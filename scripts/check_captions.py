#!/usr/bin/env python3
"""Sample held-out captions with the mini model and check from the pixels whether the videos show them.

Prints how often each part of the caption is right, with 95 % intervals, and writes a contact sheet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PARTS = ("found", "color", "background", "motion", "shape", "all")
SHEET_FRAMES = (0, 4, 8, 12, 16)


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z, share = 1.96, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5 / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(checks: Sequence[tuple[str, object]]) -> str:
    """Shares of right clips per part, and of fully right clips per kind of motion."""
    from opensora.mini.captions import parse_caption

    def line(name: str, results: Iterable[bool]) -> str:
        results = list(results)
        low, high = wilson(sum(results), len(results))
        return (
            f"{name:<12}{sum(results):>4}/{len(results):<4}{sum(results) / len(results):>6.0%}   {low:.0%}-{high:.0%}"
        )

    lines = [f"{'part':<12}{'right':>9}{'share':>6}   95 %"]
    lines += [line(part, (getattr(check, part) for _, check in checks)) for part in PARTS]
    motions = sorted({parse_caption(caption).motion for caption, _ in checks})
    lines += [f"{'motion':<12}fully right"]
    lines += [line(m, (c.all for caption, c in checks if parse_caption(caption).motion == m)) for m in motions]
    return "\n".join(lines)


def contact_sheet(clips: Sequence, checks: Sequence[tuple[str, object]], path: Path) -> None:
    """A row of frames per clip; wrong clips have a red caption that names the wrong parts."""
    import numpy as np
    from PIL import Image, ImageDraw

    zoom, label, per_row = 2, 14, 2
    strips = [np.concatenate([clip[i] for i in SHEET_FRAMES], axis=1) for clip in clips]
    height, width = strips[0].shape[0] * zoom + label, strips[0].shape[1] * zoom + 8
    rows = -(-len(strips) // per_row)
    sheet = Image.new("RGB", (width * per_row, height * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (strip, (caption, check)) in enumerate(zip(strips, checks, strict=True)):
        x, y = (i % per_row) * width, (i // per_row) * height
        wrong = [part for part in PARTS[:-1] if not getattr(check, part)]
        text = caption if not wrong else f"{caption}  [{', '.join(wrong)}]"
        draw.text((x + 2, y + 1), text, fill="black" if not wrong else "red")
        image = Image.fromarray(strip)
        sheet.paste(image.resize((image.width * zoom, image.height * zoom), Image.NEAREST), (x, y + label))
    sheet.save(path)


def main() -> None:
    """Sample, check, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="configs/mini/sample.py")
    parser.add_argument("--captions", type=int, default=32, help="number of held-out captions")
    parser.add_argument("--seed", type=int, default=0, help="chooses the captions and the noise")
    parser.add_argument("--batch-size", type=int, default=8, help="without a cache only; a cache samples one by one")
    parser.add_argument("--output", type=Path, default=Path("outputs/check_captions"))
    options = parser.parse_args()
    if options.captions < 1:
        parser.error(f"--captions is {options.captions}; check at least one")

    from tqdm import tqdm

    from opensora.mini.captions import held_out_captions
    from opensora.mini.check import check_clip
    from opensora.pipeline import SamplingPipeline
    from opensora.utils.device import limit_threads

    captions = held_out_captions(options.captions, options.seed)
    pipe = SamplingPipeline.from_config(options.config)
    limit_threads(pipe.model)
    batch = 1 if pipe.cache else options.batch_size
    clips, computed = [], []
    for start in tqdm(range(0, len(captions), batch), desc="sampling"):
        output = pipe(captions[start : start + batch], seed=options.seed + start, progress=False)
        clips += output.videos
        computed += [trace.num_computed for trace in output.traces if trace is not None]
    checks = [(caption, check_clip(clip, caption)) for caption, clip in zip(captions, clips, strict=True)]
    print(table(checks))
    if computed:
        print(f"computed steps: mean {sum(computed) / len(computed):.1f} of {pipe.scheduler.num_sampling_steps}")
    options.output.mkdir(parents=True, exist_ok=True)
    contact_sheet(clips, checks, options.output / "sheet.png")
    rows = [{"caption": caption, **vars(check), "all": check.all} for caption, check in checks]
    (options.output / "checks.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"wrote {options.output}/sheet.png and checks.json")


if __name__ == "__main__":
    main()
