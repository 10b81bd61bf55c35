"""Contact sheets of a run's samples: a strip of frames of each, with its seed and its computed steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opensora.datasets.contact_sheet import Strip, film, grid, save_sheet
from opensora.datasets.video_io import IMAGE_SUFFIX, read_video

if TYPE_CHECKING:
    from PIL.Image import Image

    from opensora.cli.result import SampleResult

SHEET_FRAMES = 6  # per video
FRAME_BOX = (192, 144)  # pixels that a frame of the sheet fits into
FRAME_GAP = 3
FONT_SIZE = 14
MARGIN = 16
IMAGES_PER_ROW = 5  # where a sample is a single frame
MAX_STRIPS = 24  # of one sheet; viewers fail at pictures of any height

_GRAY = 200  # of the box that stands for a file that cannot be read
_RED = "#b91c1c"


def write_run_sheet(path: Path, results: Sequence[SampleResult]) -> Path:
    """Write a sheet of all samples, prompt by prompt, as a PNG; returns ``path``.

    More than ``MAX_STRIPS`` samples go on in ``STEM.page2.png`` and so on, and each sheet says which one it is. Sheets
    that an older, longer run left there are removed. A sample whose file cannot be read has a gray box in its place.

    Raises:
        OSError: the disk refuses.
    """
    pages = _pages(results)
    for number, page in enumerate(pages, start=1):
        of = f" (sheet {number} of {len(pages)})" if len(pages) > 1 else ""
        save_sheet(list(_grids(page, of)), _page_path(path, number), MARGIN)
    for leftover in path.parent.glob("*.png"):
        match = re.fullmatch(rf"{re.escape(path.stem)}\.page(\d+)\.png", leftover.name)
        if match and int(match[1]) > len(pages):
            leftover.unlink()
    return path


def prompt_grid(results: Sequence[SampleResult], notes: Sequence[str], heading: str | None = None) -> Image:
    """The samples of one prompt, each with its seed and a note, under the prompt or another ``heading``."""
    first = results[0].prompt
    strips = [_strip(result, f"seed {result.prompt.seed}", note) for result, note in zip(results, notes, strict=True)]
    return _grid_of(results, strips, 3, f"{first.index}: {first.text}" if heading is None else heading)


def steps_note(result: SampleResult) -> str:
    """How many steps of a sample were computed."""
    return f"{result.num_computed} of {result.num_steps} steps"


def _pages(results: Sequence[SampleResult]) -> list[list[SampleResult]]:
    """The samples sheet by sheet; those of one prompt are kept together where a sheet can hold them."""
    pages: list[list[SampleResult]] = []
    for prompt in _by_prompt(results):
        for start in range(0, len(prompt), MAX_STRIPS):
            part = prompt[start : start + MAX_STRIPS]
            if pages and len(pages[-1]) + len(part) <= MAX_STRIPS:
                pages[-1] += part
            else:
                pages.append(part)
    return pages


def _grids(page: Sequence[SampleResult], of: str) -> Iterator[Image]:
    prompts = _by_prompt(page)
    if len(prompts) == len(page) and all(_is_image(result) for result in page):
        # A row per image would leave most of the sheet white, so here the prompts are the notes.
        strips = [_strip(result, _seed_and_steps(result), result.prompt.text) for result in page]
        yield _grid_of(page, strips, 5, of.strip())
        return
    for results in prompts:
        first = results[0].prompt
        # The heading keeps two lines of what may be a long prompt, so the number of the sheet comes first.
        heading = f"{of.strip()} {first.index}: {first.text}".strip()
        of = ""
        yield prompt_grid(results, [steps_note(result) for result in results], heading)


def _grid_of(results: Sequence[SampleResult], strips: Sequence[Strip], text_lines: int, heading: str) -> Image:
    """Videos one below the other with one line of text; images side by side with up to ``text_lines``."""
    if all(_is_image(result) for result in results):
        return grid(strips, min(IMAGES_PER_ROW, len(strips)), text_lines, FONT_SIZE, heading)
    return grid(strips, 1, 1, FONT_SIZE, heading)


def _strip(result: SampleResult, text: str, note: str) -> Strip:
    try:
        frames, _ = read_video(result.video, SHEET_FRAMES)
    except (OSError, ValueError):
        box = np.full((1, FRAME_BOX[1], FRAME_BOX[0], 3), _GRAY, np.uint8)
        return Strip(film(box, 1), f"{text}: cannot read {result.video.name}", _RED)
    return Strip(film(frames, SHEET_FRAMES, FRAME_BOX, FRAME_GAP), text, note=note)


def _seed_and_steps(result: SampleResult) -> str:
    return f"{result.prompt.index}: seed {result.prompt.seed}, {steps_note(result)}"


def _by_prompt(results: Iterable[SampleResult]) -> list[list[SampleResult]]:
    in_order = sorted(results, key=lambda result: result.prompt.index)  # stable: samples stay in their order
    return [list(group) for _, group in groupby(in_order, key=lambda result: result.prompt.index)]


def _is_image(result: SampleResult) -> bool:
    return result.video.suffix.lower() == IMAGE_SUFFIX


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}.page{number}{path.suffix}")
