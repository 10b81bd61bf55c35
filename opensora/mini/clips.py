"""Rendered training clips on disk, made in parallel and the same for the same seed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

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


def render_clips(folder: Path, count: int, seed: int, workers: Workers) -> None:
    """Write ``frames.npy``, ``centers.npy`` and ``captions.json`` for ``count`` clips; does nothing when they exist."""
    done = folder / "captions.json"
    if done.is_file():
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
        partial = done.with_suffix(".partial")
        partial.write_text(json.dumps({"seed": seed, "count": count}))
        os.replace(partial, done)
    workers.wait()
