"""Rendered training clips on disk, made in parallel and the same for the same seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from adacache.atomic import atomic_path
from opensora.mini.captions import Scene, draw_scene, random_caption
from opensora.mini.shapes import FRAMES, SIZE, random_path, render
from opensora.mini.workers import Workers


@dataclass(frozen=True)
class Clip:
    """A captioned clip: ``frames`` (FRAMES, SIZE, SIZE, 3) uint8, ``centers`` (FRAMES, 2) x and y in pixels."""

    scene: Scene
    caption: str
    frames: np.ndarray
    centers: np.ndarray


def make_clip(seed: int, index: int, held_out: bool = False) -> Clip:
    """Clip number ``index`` of the endless stream that ``seed`` starts."""
    rng = np.random.default_rng((seed, int(held_out), index))
    scene = draw_scene(rng, held_out)
    caption = random_caption(scene, rng)
    path = random_path(scene, rng)
    return Clip(scene, caption, render(scene, path), np.stack([path.x, path.y], axis=1))


def make_caption(seed: int, index: int, held_out: bool = False) -> str:
    """The caption of ``make_clip`` with the same arguments, without drawing the clip."""
    rng = np.random.default_rng((seed, int(held_out), index))
    return random_caption(draw_scene(rng, held_out), rng)


def is_finished(folder: Path, facts: dict[str, int]) -> bool:
    """Whether ``mark_finished`` was called for ``folder`` with the same facts.

    Raises:
        ValueError: the folder holds the data of another seed or size.
    """
    path = folder / "finished.json"
    if not path.is_file():
        return False
    found = json.loads(path.read_text())
    if found != facts:
        raise ValueError(f"{folder} was made with {found}, not {facts}; delete it or choose another --work folder")
    return True


def mark_finished(folder: Path, facts: dict[str, int]) -> None:
    """Note that the data in ``folder`` are complete."""
    with atomic_path(folder / "finished.json") as temporary:
        temporary.write_text(json.dumps(facts))


def render_clips(folder: Path, count: int, seed: int, workers: Workers) -> None:
    """Write ``frames.npy`` and ``centers.npy`` for ``count`` clips; does nothing when they exist."""
    facts = {"seed": seed, "count": count}
    if is_finished(folder, facts):
        return
    if workers.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(folder / "frames.npy", "w+", np.uint8, (count, FRAMES, SIZE, SIZE, 3))
        np.lib.format.open_memmap(folder / "centers.npy", "w+", np.float32, (count, FRAMES, 2))
    workers.wait()
    frames = np.load(folder / "frames.npy", mmap_mode="r+")
    centers = np.load(folder / "centers.npy", mmap_mode="r+")
    for index in tqdm(workers.share(count), desc="data", disable=not workers.is_main, mininterval=5):
        clip = make_clip(seed, index)
        frames[index], centers[index] = clip.frames, clip.centers
    frames.flush()
    centers.flush()
    workers.wait()
    if workers.is_main:
        mark_finished(folder, facts)
    workers.wait()
