"""Make the training clips of a seed, one by one and reproducibly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from adacache.atomic import atomic_path
from mini.errors import TrainingError
from mini.world.captions import Scene, draw_scene, random_caption
from mini.world.paths import FRAMES, GROUP_RADII, SIZE, Shot, random_shot
from mini.world.render import render

CHUNKS = 3  # of the longest clip
MOST_FIGURES = max(GROUP_RADII)
FINISHED = "finished.json"  # of a folder of data: what they are


@dataclass(frozen=True)
class Clip:
    """A captioned clip: `frames` (F, H, W, 3) uint8 and where its figures are."""

    scene: Scene
    caption: str
    frames: Tensor
    shot: Shot


def make_clip(
    seed: int, index: int, held_out: bool = False, frames: int = FRAMES, size: tuple[int, int] = SIZE
) -> Clip:
    """Make clip number `index` of the endless stream of `seed`; a longer clip starts with the shorter one."""
    rng = np.random.default_rng((seed, int(held_out), index))
    scene = draw_scene(rng, held_out)
    caption = random_caption(scene, rng)
    shot = random_shot(scene, rng, frames, size)
    return Clip(scene, caption, render(scene, shot), shot)


def make_caption(seed: int, index: int, held_out: bool = False) -> str:
    """Return the caption of `make_clip` with the same arguments, without rendering the clip."""
    rng = np.random.default_rng((seed, int(held_out), index))
    return random_caption(draw_scene(rng, held_out), rng)


def make_chunk(seed: int, index: int) -> tuple[Tensor, np.ndarray]:
    """Make a chunk to train the autoencoders on, from the start, middle or end of a longer clip.

    Returns:
        (FRAMES, H, W, 3) uint8, and the centers (FRAMES, MOST_FIGURES, 2) of the figures, x and y in pixels, the main
        one first; NaN for those that there are not.
    """
    rng = np.random.default_rng((seed, CHUNKS, index))
    scene = draw_scene(rng, held_out=False)
    start = FRAMES * int(rng.integers(CHUNKS))
    shot = random_shot(scene, rng, CHUNKS * FRAMES).part(start, start + FRAMES)
    centers = np.full((FRAMES, MOST_FIGURES, 2), np.nan)
    for number, path in enumerate(reversed(shot.paths)):
        centers[:, number] = np.stack([path.x, path.y], axis=1)
    return render(scene, shot), centers


def is_finished(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether `mark_finished` was called for `folder` with the same facts.

    Raises:
        TrainingError: the folder holds the data of another seed or size.
    """
    path = folder / FINISHED
    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    if found != facts:
        raise TrainingError(f"{folder} was made with {found}, not {facts}; delete it or choose another --work folder")
    return True


def mark_finished(folder: Path, facts: dict[str, Any]) -> None:
    """Record that the data in `folder` are complete."""
    with atomic_path(folder / FINISHED) as temporary:
        temporary.write_text(json.dumps(facts))
