"""What caching does to videos that are given in part: upstream's rule and ours, on held-out clips of the mini model.

Upstream measures held frames with the generated ones and reuses residuals across a change of the frame mask; ours
measures generated frames only and computes the step in which a frame joins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adacache import AdaCacheConfig, StepController
from adacache.calibration.quality import psnr
from adacache.policies.base import PolicyConfig
from adacache.policies.fixed import FixedIntervalConfig
from bench.compare.bootstrap import interval
from bench.statistics import CurvePoint, at_compute
from mini.world.clips import Clip, make_clip
from opensora.conditioning.masking import apply_mask_strategy
from opensora.config import load_config
from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.pipeline import SamplingPipeline

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "mini"
CLIP_SEED = 29  # of the stream of rendered clips
EDIT_SEED = 2**32  # apart from those of the noise that sampling starts from


class Rule(NamedTuple):
    """How frames that are held are treated; ``scale`` multiplies the thresholds of a codebook."""

    name: str
    compat: bool
    scale: float = 1.0


OURS, UPSTREAM = Rule("ours", False), Rule("upstream", True)
# Held frames make distances smaller, so upstream's rule computes fewer steps. With smaller thresholds it computes more,
# which tells whether ours is better or only slower.
STRICTER = (Rule("upstream, thresholds x 0.7", True, 0.7), Rule("upstream, thresholds x 0.4", True, 0.4))


class Task(NamedTuple):
    """A way to give a part of a video.

    Attributes:
        num_frames: of the video.
        given: frames of a rendered clip that are its reference, 0 for none.
        strategy: mask strategy that places the reference.
        judged_from: first frame that counts; those before it are given.
    """

    name: str
    num_frames: int
    given: int
    strategy: str
    judged_from: int


# A chunk of 17 frames has 5 latents: one for its first frame, one for every 4 that follow.
TASKS = (
    Task("text only", 17, 0, "", 0),
    Task("image to video", 17, 1, "0,0,0,0,1,0", 1),
    Task("extension", 34, 17, "0,0,0,0,5,0", 17),
    Task("edit at 0.5", 17, 17, "0,0,0,0,2,0.5", 0),
)


@dataclass(frozen=True)
class Result:
    """One policy under one rule in one task: PSNR in dB to the uncached video and computed steps, by clip."""

    task: str
    policy: str
    rule: str
    psnr: list[float]
    computed: list[int]


def policies() -> dict[str, PolicyConfig]:
    """AdaCache with and without motion regularization, as bundled, and a schedule that measures nothing."""
    return {
        "AdaCache": load_config(CONFIGS / "sample_adacache.py").cache,
        "AdaCache+MoReg": load_config(CONFIGS / "sample_adacache_moreg.py").cache,
        "every 4th step": FixedIntervalConfig(4),
    }


def clips_of(count: int, num_frames: int) -> list[Clip]:
    """Rendered held-out clips with captions that all differ; longer clips begin as the shorter ones do."""
    clips: dict[str, Clip] = {}
    index = 0
    while len(clips) < count:
        clip = make_clip(CLIP_SEED, index, held_out=True, frames=num_frames)
        clips.setdefault(clip.caption, clip)
        index += 1
    return list(clips.values())


def measure(
    pipe: SamplingPipeline, caches: Mapping[str, PolicyConfig], tasks: Sequence[Task], clips: int, batch: int, bar: tqdm
) -> Iterator[Result]:
    """Sample every task under every policy and rule; ``bar`` counts videos. Without a mask both rules are one."""
    for task in tasks:
        sized = pipe.with_config(replace(pipe.config, num_frames=task.num_frames))
        batches = list(_batches(sized, task, clips, batch))
        uncached = [sized.decode(one.sample(sized, None), progress=False) for one in batches]
        bar.update(clips)
        for name, cache in caches.items():
            for rule in rules(task, cache):
                qualities, computed = [], []
                for one, exact in zip(batches, uncached, strict=True):
                    controller = StepController(_scaled(cache, rule.scale))
                    videos = sized.decode(one.sample(sized, controller, rule.compat), progress=False)
                    start = task.judged_from
                    qualities += [psnr(a[start:], b[start:]) for a, b in zip(videos, exact, strict=True)]
                    computed += [trace.num_computed for trace in controller.traces]
                    bar.update(len(videos))
                yield Result(task.name, name, rule.name, qualities, computed)


def rules(task: Task, cache: PolicyConfig) -> tuple[Rule, ...]:
    """What a policy is tried with in a task: all rules are one where nothing is given."""
    if not task.given:
        return (OURS,)
    return (OURS, UPSTREAM, *(STRICTER if isinstance(cache, AdaCacheConfig) else ()))


def num_videos(caches: Mapping[str, PolicyConfig], tasks: Sequence[Task], clips: int) -> int:
    """How many videos ``measure`` samples."""
    return sum(clips * (1 + sum(len(rules(task, cache)) for cache in caches.values())) for task in tasks)


def _scaled(cache: PolicyConfig, scale: float) -> PolicyConfig:
    if scale == 1:
        return cache
    return replace(
        cache, codebook=replace(cache.codebook, thresholds=tuple(scale * t for t in cache.codebook.thresholds))
    )


@dataclass(frozen=True)
class _Batch:
    """Clips that are sampled together; noise and references are the same under every policy."""

    captions: list[str]
    seeds: list[int]
    references: list[list[Tensor]]
    strategy: str

    def sample(self, pipe: SamplingPipeline, controller: StepController | None, compat: bool = False) -> Tensor:
        """Latents (B, 4, T, H', W')."""
        config = pipe.config
        size = pipe.vae.get_latent_size([config.num_frames, config.height, config.width])
        shape = (pipe.vae.out_channels, *size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        z = torch.stack(noise).to(pipe.model.device, pipe.model.dtype)
        strategies = [self.strategy] * len(self.captions) if self.strategy else []
        return pipe.scheduler.sample(
            pipe.model,
            pipe.text_encoder,
            z,
            [text_preprocessing(caption) for caption in self.captions],
            pipe.model.device,
            additional_args=pipe.size_arguments(len(self.captions)),
            mask=apply_mask_strategy(z, self.references, strategies, 0),
            progress=False,
            controller=controller,
            generator=[torch.Generator().manual_seed(EDIT_SEED + seed) for seed in self.seeds],
            compat=compat,
        )


def _batches(pipe: SamplingPipeline, task: Task, count: int, batch: int) -> Iterator[_Batch]:
    clips = clips_of(count, task.num_frames)
    for start in range(0, count, batch):
        some = clips[start : start + batch]
        given = [[pipe.encode_reference(clip.frames[: task.given])] if task.given else [] for clip in some]
        captions = [clip.caption for clip in some]
        yield _Batch(captions, list(range(start, start + len(some))), given, task.strategy)


def summarize(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row per task and policy: means of both rules, and ours minus upstream's with 95 % intervals over captions.

    ``gain_at_equal_steps`` is to upstream's rule at the thresholds at which it would compute as many steps.
    """
    rows = []
    for task, policy in dict.fromkeys((result.task, result.policy) for result in results):
        found = {result.rule: result for result in results if (result.task, result.policy) == (task, policy)}
        row: dict[str, Any] = {"task": task, "policy": policy}
        for rule, result in found.items():
            row[rule] = {"steps": float(np.mean(result.computed)), "psnr": float(np.mean(result.psnr))}
        if UPSTREAM.name in found:
            ours, upstream = found[OURS.name], found[UPSTREAM.name]
            row["more_steps"] = interval(list(np.subtract(ours.computed, upstream.computed).astype(float)))
            row["gain"] = interval(list(np.subtract(ours.psnr, upstream.psnr)))
            curve = [
                CurvePoint(row[rule.name]["steps"], dict(enumerate(found[rule.name].psnr)))
                for rule in (UPSTREAM, *STRICTER)
                if rule.name in found
            ]
            equal = at_compute(curve, row[OURS.name]["steps"])
            if equal is not None:
                row["gain_at_equal_steps"] = interval(list(np.subtract(ours.psnr, list(equal.values()))))
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as a table."""
    lines = [
        "| given | policy | upstream's rule: steps, PSNR | ours: steps, PSNR | more steps | dB gained "
        "| dB at equal steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rules = (UPSTREAM.name, OURS.name)
        means = [f"{row[rule]['steps']:.1f}, {row[rule]['psnr']:.1f} dB" if rule in row else "-" for rule in rules]
        changes = [_interval(row.get(key)) for key in ("more_steps", "gain", "gain_at_equal_steps")]
        lines.append(f"| {row['task']} | {row['policy']} | " + " | ".join((*means, *changes)) + " |")
    return "\n".join(lines)


def _interval(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    mean, low, high = values
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
