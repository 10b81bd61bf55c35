"""What a run leaves to look at and choose from: contact sheets and, for drafts, their list and the final command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adacache.atomic import atomic_path
from adacache.calibration.target import TARGETS
from opensora.cli.plan import Sample
from opensora.datasets.contact_sheet import Strip, film, grid, save_sheet
from opensora.datasets.video_io import IMAGE_SUFFIX, read_video
from opensora.files import REPO_ROOT

if TYPE_CHECKING:
    from PIL.Image import Image

SHEET_FRAMES = 6  # per video
FRAME_BOX = (192, 144)  # pixels that a frame of the sheet fits into
FRAME_GAP = 3
FONT_SIZE = 14
MARGIN = 16
IMAGES_PER_ROW = 5  # where a sample is a single frame
MAX_STRIPS = 24  # per sheet: viewers fail at very tall pictures

_GRAY = 200  # of the box that stands for a file that cannot be read
_RED = "#b91c1c"

# Entries of a draft run that its final run must not repeat, as flags or by --cfg-options.
_DRAFT_ENTRIES = ("draft", *TARGETS)
_DRAFT_FLAGS = tuple(f"--{name.replace('_', '-')}" for name in _DRAFT_ENTRIES)


def write_overview(samples: Sequence[Sample]) -> list[Path]:
    """Write `drafts.json` and contact sheets beside the drafts; return the sheets (`write_sheets`)."""
    folder = samples[0].result.video.parent
    with atomic_path(folder / "drafts.json") as temporary:
        text = json.dumps({"drafts": list(map(_entry, samples))}, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    return write_sheets(folder / "drafts.png", samples)


def final_command(arguments: Sequence[str], samples: Sequence[Sample]) -> str:
    """Return the command that renders the first draft of every prompt well, run from the working directory.

    Args:
        arguments: command line of the draft run.
    """
    first = [drafts[0] for drafts in _by_prompt(samples)]
    seeds = [f"{draft.seed}" if len(first) == 1 else f"{draft.index}:{draft.seed}" for draft in first]
    script = REPO_ROOT / "run_sample_video.sh"
    if script.is_relative_to(Path.cwd()):
        script = script.relative_to(Path.cwd())
    command = ["bash", str(script)] if script.is_file() else ["opensora", "sample"]
    return shlex.join([*command, *without_draft_flags(arguments), "--final", *seeds])


def _entry(sample: Sample) -> dict[str, Any]:
    return {
        "prompt_index": sample.index,
        "prompt": sample.prompt,
        "seed": sample.seed,
        "file": sample.result.video.name,
        "num_computed": sample.result.num_computed,
        "num_steps": sample.result.num_steps,
    }


def without_draft_flags(arguments: Sequence[str]) -> list[str]:
    """The arguments of a draft run without what its final run must not repeat."""
    kept, skip, options = [], False, False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        options = name == "--cfg-options" or (options and not argument.startswith("--"))
        if skip or name in _DRAFT_FLAGS:
            skip = not skip and not equals  # the value follows
        elif not (options and name in _DRAFT_ENTRIES):
            kept.append(argument)
    # `--cfg-options` cannot stand without any option.
    following = [*kept[1:], "--"]
    return [
        argument
        for argument, after in zip(kept, following, strict=False)
        if argument != "--cfg-options" or not after.startswith("--")
    ]


def write_sheets(path: Path, samples: Sequence[Sample]) -> list[Path]:
    """Write a sheet of samples, which are in the order of their prompts, as a PNG.

    More than `MAX_STRIPS` samples continue in `STEM.page2.png` and so on; sheets of an older run are removed. Return
    the paths of all sheets.

    Raises:
        OSError: the disk refuses.
    """
    for leftover in path.parent.glob(f"{path.stem}.page*.png"):
        leftover.unlink()
    sheets = []
    for start in range(0, len(samples), MAX_STRIPS):
        sheets.append(path.with_name(f"{path.stem}.page{len(sheets) + 1}.png") if sheets else path)
        save_sheet(list(map(_grid, _by_prompt(samples[start : start + MAX_STRIPS]))), sheets[-1], MARGIN)
    return sheets


def _by_prompt(samples: Sequence[Sample]) -> list[list[Sample]]:
    return [list(group) for _, group in groupby(samples, key=lambda sample: sample.index)]


def _grid(samples: Sequence[Sample]) -> Image:
    """Draw the samples of one prompt under it: videos one below the other, images side by side."""
    first, strips = samples[0], [_strip(sample) for sample in samples]
    heading = f"{first.index}: {first.prompt}"
    if first.result.video.suffix == IMAGE_SUFFIX:
        return grid(strips, min(IMAGES_PER_ROW, len(strips)), 3, FONT_SIZE, heading)
    return grid(strips, 1, 1, FONT_SIZE, heading)


def _strip(sample: Sample) -> Strip:
    """Draw frames of a sample, or a gray box if its file cannot be read."""
    result = sample.result
    try:
        frames, _ = read_video(result.video, SHEET_FRAMES)
    except (OSError, ValueError):
        box = np.full((1, FRAME_BOX[1], FRAME_BOX[0], 3), _GRAY, np.uint8)
        return Strip(film(box, 1), f"seed {sample.seed}: cannot read {result.video.name}", _RED)
    note = f"{result.num_computed} of {result.num_steps} steps"
    return Strip(film(frames, SHEET_FRAMES, FRAME_BOX, FRAME_GAP), f"seed {sample.seed}", note=note)
