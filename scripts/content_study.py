#!/usr/bin/env python3
"""Ask whether adapting to content pays on the 128-pixel mini model: AdaCache, MoReg and fixed lists, class by class.

Lists are the mean of AdaCache's schedules on training captions, stretched to several lengths. Each process takes every
COUNTth caption: `content_study.py FOLDER sample RANK COUNT`, in all of them, then `content_study.py FOLDER report`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from adacache import AdaCacheConfig, Codebook, MoRegConfig, Trace
from adacache.calibration.quality import psnr
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from mini.world.captions import MOTION_MIX, Scene, draw_scene
from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline

CONFIG = "assets/opensora-mini-128/sample.py"
CLASSES = (*MOTION_MIX, "textured", "drifting", "pan", "pair", "trio", "crossing")
CAPTIONS = 4  # held-out ones per class
STEPS = 30
LENGTHS = (14, 15, 17, 20, 24)
ADACACHE = AdaCacheConfig(codebook=Codebook((0.05, 0.09, 0.14), (4, 3, 2, 1)), metric="t-attn", metric_blocks=(4,))
MOREG = MoRegConfig(scale=0.15, power=1.5, divisor=1, gradient_weight=0, strides=(1,), window=(0.3, 0.95))
ADAPTIVE = {
    "AdaCache": ADACACHE,
    "MoReg .15": replace(ADACACHE, moreg=MOREG),
    "MoReg .10": replace(ADACACHE, moreg=replace(MOREG, scale=0.10)),
}


def content_class(scene: Scene) -> str:
    """Return the motion of a figure before a plain background, else the kind of scene."""
    return scene.main.motion if scene.kind == "plain" else scene.kind


def captions_by_class(count: int, seed: int, held_out: bool) -> list[tuple[str, str]]:
    """Draw `count` captions of every class, each with its class."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, None]] = {name: {} for name in CLASSES}
    while any(len(captions) < count for captions in found.values()):
        scene = draw_scene(rng, held_out)
        captions = found[content_class(scene)]
        if len(captions) < count:
            captions[scene.caption()] = None
    return [(name, caption) for name, captions in found.items() for caption in captions]


def run(
    pipe: SamplingPipeline, cache: PolicyConfig, captions: Sequence[str], seeds: Sequence[int]
) -> tuple[list[np.ndarray], list[Trace]]:
    """Sample a batch under a policy."""
    pipe.cache = cache
    output = pipe(list(captions), seed=list(seeds), progress=False)
    return output.videos, output.traces


def fixed_list(schedules: Sequence[Sequence[int]], length: int) -> StaticScheduleConfig:
    """Return the mean schedule, stretched to at most `length` steps, with the first and the last two, as AdaCache's."""

    def mean_of(count: int) -> set[int]:
        at = np.linspace(0, 1, count)
        places = np.mean([np.interp(at, np.linspace(0, 1, len(s)), s) for s in schedules], axis=0)
        return {0, STEPS - 2, STEPS - 1} | {round(place) for place in places.tolist()}

    return StaticScheduleConfig(tuple(sorted(next(s for s in map(mean_of, range(length, 0, -1)) if len(s) <= length))))


def sample(folder: Path, rank: int, count: int) -> None:
    """Measure this process's share of the captions and write its rows."""
    torch.set_num_threads(1)
    pipe = SamplingPipeline.from_config(load_config(CONFIG))
    training = [caption for _, caption in captions_by_class(2, 11, held_out=False)]
    schedules = [trace.computed_steps for trace in run(pipe, ADACACHE, training, range(len(training)))[1]]
    lists = {str(length): fixed_list(schedules, length) for length in LENGTHS}
    rows: list[dict[str, Any]] = []
    jobs = list(enumerate(captions_by_class(CAPTIONS, 5, held_out=True)))[rank::count]
    for begin in range(0, len(jobs), 6):
        batch = jobs[begin : begin + 6]
        seeds, captions = [seed for seed, _ in batch], [caption for _, (_, caption) in batch]
        exact, traces = run(pipe, replace(ADACACHE, codebook=Codebook((), (1,))), captions, seeds)
        new = [
            {"class": name, "distances": [r.distance for r in trace.records if r.distance is not None], "runs": {}}
            for (_, (name, _)), trace in zip(batch, traces, strict=True)
        ]
        for name, cache in {**ADAPTIVE, **lists}.items():
            for row, video, trace, full in zip(new, *run(pipe, cache, captions, seeds), exact, strict=True):
                row["runs"][name] = trace.num_computed, psnr(video, full)
        rows += new
        print(f"{len(rows)} of {len(jobs)}", flush=True)
    (folder / f"rows{rank}.json").write_text(json.dumps(rows))


def of_list(row: dict[str, Any], steps: float) -> float:
    """Return the PSNR of a fixed list of `steps` steps, between those that were measured."""
    counts, values = zip(*(row["runs"][str(length)] for length in LENGTHS), strict=True)
    return float(np.interp(steps, counts, values))


def mean_and_error(values: Sequence[float]) -> str:
    """Return a mean and its standard error as text."""
    return f"{np.mean(values):+.2f} +- {np.std(values, ddof=1) / len(values) ** 0.5:.2f}"


def report(folder: Path) -> None:
    """Print gains over lists of the mean number of steps, and of each video's own, and the classes."""
    rows = [row for path in sorted(folder.glob("rows*.json")) for row in json.loads(path.read_text())]
    for name in ADAPTIVE:
        mean = np.mean([row["runs"][name][0] for row in rows])
        gains = [row["runs"][name][1] - of_list(row, mean) for row in rows]
        own = [row["runs"][name][1] - of_list(row, row["runs"][name][0]) for row in rows]
        quality = np.mean([row["runs"][name][1] for row in rows])
        print(f"{name}: {mean:.1f} steps, {quality:.1f} dB, over one list {mean_and_error(gains)}")
        print(f"    over lists as long as its own schedules {mean_and_error(own)}")
    for kind in CLASSES:
        own = [row for row in rows if row["class"] == kind]
        change = np.mean([np.mean(row["distances"]) for row in own])
        runs = (f"{name} {np.mean([row['runs'][name] for row in own], axis=0).round(1)}" for name in ADAPTIVE)
        print(f"{kind:10} change {change:.4f}", *runs)
    logs = [np.log([row["distances"] for row in rows if row["class"] == kind]) for kind in CLASSES]
    within = np.mean([values.var(axis=0) for values in logs], axis=0).mean()
    print(
        f"of the variance of log change, {1 - within / np.concatenate(logs).var(axis=0).mean():.0%} is between classes"
    )


if __name__ == "__main__":
    place, what = Path(sys.argv[1]), sys.argv[2]
    place.mkdir(parents=True, exist_ok=True)
    sample(place, int(sys.argv[3]), int(sys.argv[4])) if what == "sample" else report(place)
