"""What a run leaves to look at and choose from: contact sheets and, for drafts, their list and the final command."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adacache.atomic import atomic_path
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
MAX_STRIPS = 24  # per sheet: viewers fail at very tall pictures; more drafts get one sheet for each prompt

_GRAY = 200  # of the box that stands for a file that cannot be read
_RED = "#b91c1c"

# Entries of a draft run that its final run must not repeat, as flags or by --cfg-options.
_DRAFT_ENTRIES = ("draft", "speedup", "max_steps_computed", "min_psnr")
_DRAFT_FLAGS = tuple(f"--{name.replace('_', '-')}" for name in _DRAFT_ENTRIES)


def write_overview(samples: Sequence[Sample]) -> list[Path]:
    """Write `drafts.json` and contact sheets beside the drafts, the least risky one of each prompt first.

    Return the sheets: `drafts.png` alone or, where there are many drafts, one per prompt, such as `drafts_0003.png`.
    """
    folder = samples[0].result.video.parent
    by_prompt = _by_risk(samples)
    with atomic_path(folder / "drafts.json") as temporary:
        entries = [_entry(sample) for drafts in by_prompt for sample in drafts]
        text = json.dumps({"drafts": entries}, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    if len(samples) <= MAX_STRIPS or len(by_prompt) == 1:
        return [_save(by_prompt, folder / "drafts.png")]
    return [_save([drafts], folder / f"drafts_{drafts[0].index:04d}.png") for drafts in by_prompt]


def final_command(arguments: Sequence[str], samples: Sequence[Sample]) -> str:
    """Return the command that renders the least risky draft of every prompt well, run from the working directory.

    Args:
        arguments: command line of the draft run.
    """
    best = [drafts[0] for drafts in _by_risk(samples)]
    seeds = [f"{draft.seed}" if len(best) == 1 else f"{draft.index}:{draft.seed}" for draft in best]
    script = REPO_ROOT / "run_sample_video.sh"
    if script.is_relative_to(Path.cwd()):
        script = script.relative_to(Path.cwd())
    command = ["bash", str(script)] if script.is_file() else ["opensora", "sample"]
    return shlex.join([*command, *without_draft_flags(arguments), "--final", *seeds])


def _by_risk(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Group drafts by prompt, the least risky first; those without a measurement come last."""

    def order(sample: Sample) -> tuple[int, float, int]:
        return sample.index, math.inf if sample.result.risk is None else sample.result.risk, sample.seed

    return [list(drafts) for _, drafts in groupby(sorted(samples, key=order), lambda sample: sample.index)]


def _entry(sample: Sample) -> dict[str, Any]:
    known = sample.result.risk is not None and math.isfinite(sample.result.risk)  # JSON knows no infinity
    return {
        "prompt_index": sample.index,
        "prompt": sample.prompt,
        "seed": sample.seed,
        "file": sample.result.video.name,
        "risk": sample.result.risk if known else None,
        "num_computed": sample.result.num_computed,
        "num_steps": sample.result.num_steps,
    }


def _save(by_prompt: Sequence[Sequence[Sample]], path: Path) -> Path:
    save_sheet([prompt_grid(drafts, [_note(draft) for draft in drafts]) for drafts in by_prompt], path, MARGIN)
    return path


def _note(draft: Sample) -> str:
    risk = "no risk measured" if draft.result.risk is None else f"risk {draft.result.risk:.4f}"
    return f"{risk}, {steps_note(draft)}"


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


def write_run_sheet(path: Path, samples: Sequence[Sample]) -> Path:
    """Write a sheet of all samples, prompt by prompt, as a PNG; return `path`.

    More than `MAX_STRIPS` samples continue in `STEM.page2.png` and so on, and each sheet says which one it is. Sheets
    that an older, longer run left there are removed. A sample whose file cannot be read is shown as a gray box.

    Raises:
        OSError: the disk refuses.
    """
    pages = _pages(samples)
    for number, page in enumerate(pages, start=1):
        of = f" (sheet {number} of {len(pages)})" if len(pages) > 1 else ""
        save_sheet(list(_grids(page, of)), _page_path(path, number), MARGIN)
    for leftover in path.parent.glob("*.png"):
        match = re.fullmatch(rf"{re.escape(path.stem)}\.page(\d+)\.png", leftover.name)
        if match and int(match[1]) > len(pages):
            leftover.unlink()
    return path


def prompt_grid(samples: Sequence[Sample], notes: Sequence[str], heading: str | None = None) -> Image:
    """Draw the samples of one prompt, each with its seed and a note, under the prompt or another `heading`."""
    first = samples[0]
    strips = [_strip(sample, f"seed {sample.seed}", note) for sample, note in zip(samples, notes, strict=True)]
    return _grid_of(samples, strips, 3, f"{first.index}: {first.prompt}" if heading is None else heading)


def steps_note(sample: Sample) -> str:
    """Say how many steps of a sample were computed."""
    return f"{sample.result.num_computed} of {sample.result.num_steps} steps"


def _pages(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Split the samples into sheets; those of one prompt are kept together where a sheet can hold them."""
    pages: list[list[Sample]] = []
    for prompt in _by_prompt(samples):
        for start in range(0, len(prompt), MAX_STRIPS):
            part = prompt[start : start + MAX_STRIPS]
            if pages and len(pages[-1]) + len(part) <= MAX_STRIPS:
                pages[-1] += part
            else:
                pages.append(part)
    return pages


def _grids(page: Sequence[Sample], of: str) -> Iterator[Image]:
    prompts = _by_prompt(page)
    if len(prompts) == len(page) and all(_is_image(sample) for sample in page):
        # A row per image would leave most of the sheet white, so here the prompts are the notes.
        strips = [_strip(sample, _seed_and_steps(sample), sample.prompt) for sample in page]
        yield _grid_of(page, strips, 5, of.strip())
        return
    for samples in prompts:
        first = samples[0]
        # A heading shows two lines, and the prompt may be long, so the number of the sheet comes first.
        heading = f"{of.strip()} {first.index}: {first.prompt}".strip()
        of = ""
        yield prompt_grid(samples, [steps_note(sample) for sample in samples], heading)


def _grid_of(samples: Sequence[Sample], strips: Sequence[Strip], text_lines: int, heading: str) -> Image:
    """Draw videos one below the other with one line of text each, images side by side with up to `text_lines`."""
    if all(_is_image(sample) for sample in samples):
        return grid(strips, min(IMAGES_PER_ROW, len(strips)), text_lines, FONT_SIZE, heading)
    return grid(strips, 1, 1, FONT_SIZE, heading)


def _strip(sample: Sample, text: str, note: str) -> Strip:
    try:
        frames, _ = read_video(sample.result.video, SHEET_FRAMES)
    except (OSError, ValueError):
        box = np.full((1, FRAME_BOX[1], FRAME_BOX[0], 3), _GRAY, np.uint8)
        return Strip(film(box, 1), f"{text}: cannot read {sample.result.video.name}", _RED)
    return Strip(film(frames, SHEET_FRAMES, FRAME_BOX, FRAME_GAP), text, note=note)


def _seed_and_steps(sample: Sample) -> str:
    return f"{sample.index}: seed {sample.seed}, {steps_note(sample)}"


def _by_prompt(samples: Iterable[Sample]) -> list[list[Sample]]:
    in_order = sorted(samples, key=lambda sample: sample.index)  # stable: samples stay in their order
    return [list(group) for _, group in groupby(in_order, key=lambda sample: sample.index)]


def _is_image(sample: Sample) -> bool:
    return sample.result.video.suffix.lower() == IMAGE_SUFFIX


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}.page{number}{path.suffix}")
