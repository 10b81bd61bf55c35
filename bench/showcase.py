"""The videos of a bench that are kept to be looked at, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.plan import BenchPlan
from bench.points import BenchPoint
from bench.setting import BenchClip, digest
from opensora.datasets.video_io import write_video

FOLDER = "showcase"
CRF = 12  # of x264: compression must not hide what caching does


@dataclass(frozen=True)
class Showcase:
    """The kept videos: the references and every policy at some budgets, for some prompts under their first seed.

    Attributes:
        folder: of the bench.
        prompts: indices of the prompts.
        shown: points with the budgets that they are shown for.
        setting: what else the videos depend on, as a short text.
    """

    folder: Path
    prompts: tuple[int, ...]
    shown: tuple[tuple[BenchPoint, int | None], ...]
    setting: str = ""

    def has(self, clip: BenchClip, point: BenchPoint) -> bool:
        """Whether a video is to be kept."""
        return self.has_clip(clip) and any(point == own for own, _ in self.shown)

    def has_clip(self, clip: BenchClip) -> bool:
        """Whether a clip's videos are to be kept."""
        return clip.draw == 0 and clip.prompt_index in self.prompts

    def lacks(self, clip: BenchClip, point: BenchPoint) -> bool:
        """Whether a video is to be kept but its file is missing."""
        return self.has(clip, point) and not (self.folder / self.file(clip, point)).is_file()

    def file(self, clip: BenchClip, point: BenchPoint) -> str:
        """Return the path of a video within the folder; one of another prompt, setting or options has another name."""
        name = point.key.replace("@", "-").replace("#", "-setting-")
        made_of = digest([self.setting, clip.prompt, clip.seed, point.digest])
        return f"{FOLDER}/{clip.prompt_index:02d}-{name}-{made_of[:6]}.mp4"

    def write(self, clip: BenchClip, point: BenchPoint, frames: np.ndarray, fps: float) -> None:
        """Keep a video's frames (F, H, W, 3) uint8."""
        write_video(self.folder / self.file(clip, point), frames, fps, CRF)


def make_showcase(
    folder: Path,
    plan: BenchPlan,
    references: Sequence[BenchPoint],
    points: Sequence[BenchPoint],
    num_steps: int,
    setting: str = "",
) -> Showcase:
    """Make the showcase of a plan; policies without budgets are shown with the setting nearest to each budget."""
    shown: list[tuple[BenchPoint, int | None]] = [(reference, None) for reference in references]
    for budget in plan.showcase_budgets:
        for policy in plan.policies:
            own = [point for point in points if point.policy == policy.name]
            if policy.by_budget:
                shown += [(point, budget) for point in own if point.budget == budget]
            elif own:
                shown.append((min(own, key=lambda point: _distance(point, budget, num_steps)), budget))
    return Showcase(folder, plan.showcase_prompts, tuple(shown), setting)


def _distance(point: BenchPoint, budget: int, num_steps: int) -> tuple[float, int]:
    """Return how far a point's computed steps are from a budget, as a sort key.

    If they cannot be known beforehand, later settings come first: they are listed from the mildest to the strongest,
    and such policies compute much.
    """
    planned = getattr(point.cache, "planned_steps", None)
    return (abs(len(planned(num_steps)) - budget), 0) if planned else (float("inf"), -point.place)
