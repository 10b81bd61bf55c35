"""Results of the caption check as a table and as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mini.check.check import CaptionCheck
from mini.world.captions import parse_caption
from opensora.datasets.contact_sheet import Strip, film, grid, save_sheet

SHEET_FRAMES = 5  # per clip
TEXT_LINES = 2

_Result = tuple[str, bool]  # a caption, and whether its clip is right


@dataclass(frozen=True)
class CheckedClip:
    """A sampled clip (F, H, W, 3) uint8, its caption, and what the check found."""

    frames: np.ndarray
    caption: str
    check: CaptionCheck

    @property
    def wrong(self) -> list[str]:
        """Names of the items that the clip does not show."""
        return [name for name, right in self.check.items().items() if not right]


def wilson(share: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `total` (Wilson's score interval)."""
    z = 1.96
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5 / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(clips: Sequence[CheckedClip]) -> str:
    """Return the shares of right clips per item of the check, and of fully right clips per motion and kind of scene."""
    items: dict[str, list[_Result]] = {}
    motions: dict[str, list[_Result]] = {}
    kinds: dict[str, list[_Result]] = {}
    for clip in clips:
        scene = parse_caption(clip.caption)
        for name, right in clip.check.items().items():
            items.setdefault(name, []).append((clip.caption, right))
        for of_scene in (motions.setdefault(scene.main.motion, []), kinds.setdefault(scene.kind, [])):
            of_scene.append((clip.caption, clip.check.all))
    items["all"] = [(clip.caption, clip.check.all) for clip in clips]
    return "\n".join(
        [
            f"{'item':<16}{'right':>9}{'share':>7}   95 %",
            *(_line(name, right) for name, right in items.items()),
            "\nfully right, by motion of the main figure",
            *(_line(name, motions[name]) for name in sorted(motions)),
            "\nfully right, by kind of scene",
            *(_line(name, kinds[name]) for name in sorted(kinds)),
        ]
    )


def _line(name: str, results: Sequence[_Result]) -> str:
    right = sum(is_right for _, is_right in results)
    share = right / len(results)
    # Seeds of a caption tend to come out alike, so they count as one in how far the share can be trusted.
    low, high = wilson(share, len({caption for caption, _ in results}))
    return f"{name:<16}{right:>4}/{len(results):<4}{share:>7.1%}   {low:.0%}-{high:.0%}"


def contact_sheet(clips: Sequence[CheckedClip], path: Path, per_row: int = 4) -> None:
    """Write a strip of frames per clip; wrong clips have a red caption that names the wrong items."""
    strips = []
    for clip in clips:
        text = f"{clip.caption} [{', '.join(clip.wrong)}]" if clip.wrong else clip.caption
        strips.append(Strip(film(clip.frames, SHEET_FRAMES), text, "red" if clip.wrong else "black"))
    save_sheet([grid(strips, per_row, TEXT_LINES)], path)
