"""Measure what the processes that share a video send in each step, and whether their video is that of one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from adacache.trace import Trace
from opensora.acceleration.launch import MeshShape, choose_mesh
from opensora.acceleration.processes import Processes
from opensora.acceleration.video_group import VideoGroup
from opensora.config.schema import SampleConfig
from opensora.pipeline import SamplingPipeline

PURPOSES = ("blocks", "schedule", "output")


@dataclass(frozen=True)
class Sent:
    """Most bytes that one process sent in any step of one kind, by purpose."""

    blocks: int
    schedule: int
    output: int


@dataclass(frozen=True)
class ArrangementResult:
    """One video under one arrangement.

    Attributes:
        computed, reused: most bytes sent by any process in such a step; None if there is none.
        num_computed: number of computed steps.
        milliseconds: of a computed and of a reused step, medians on rank 0.
        seconds: of denoising and decoding.
        decode_sent: bytes sent for decoding, once per video.
        error: largest difference of a latent to the latents of one process.
        same_schedule: whether all processes computed the steps that one process computes.
    """

    shape: MeshShape
    computed: Sent | None
    reused: Sent | None
    num_computed: int
    milliseconds: tuple[float | None, float | None]
    seconds: float
    decode_sent: int
    error: float
    same_schedule: bool


def arrangements(world_size: int, config: SampleConfig, size: tuple[int, int]) -> list[MeshShape]:
    """Return all ways to share one video among the processes; `size` is (latent frames, tokens per frame)."""
    if config.guidance_parallel or config.sequence_parallel:
        frames, tokens = size
        asked = (config.guidance_parallel, config.sequence_parallel)
        return [choose_mesh(world_size, 1, *asked, latent_frames=frames, tokens_per_frame=tokens)]
    shapes = [MeshShape(1, guidance, world_size // guidance) for guidance in (1, 2) if world_size % guidance == 0]
    return [shape for shape in shapes if shape.sequence <= size[1]]


def bench(
    processes: Processes, pipe: SamplingPipeline, prompt: str, shapes: Sequence[MeshShape]
) -> list[ArrangementResult]:
    """Sample and decode a prompt under every arrangement; all processes get all results."""
    expected, trace, _, _ = _sample(pipe, prompt)
    results = []
    for shape in shapes:
        group = processes.arrange(shape)
        own = SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder, pipe.scheduler, pipe.config, pipe.cache, group)
        latents, own_trace, seconds, decode_sent = _sample(own, prompt)
        kinds = [_sent(group, own_trace, computed) for computed in (True, False)]
        theirs = processes.gather((kinds, decode_sent, _steps(own_trace)))
        results.append(
            ArrangementResult(
                shape,
                *(_largest([kinds[i] for kinds, _, _ in theirs]) for i in (0, 1)),
                num_computed=len(_steps(own_trace)) if own_trace else len(group.traffic.calls),
                milliseconds=tuple(_milliseconds(own_trace, computed) for computed in (True, False)),
                seconds=seconds,
                decode_sent=max(sent for _, sent, _ in theirs),
                error=(latents - expected).abs().max().item(),
                same_schedule=all(steps == _steps(trace) for _, _, steps in theirs),
            )
        )
    return results


def _sample(pipe: SamplingPipeline, prompt: str) -> tuple[Tensor, Trace | None, float, int]:
    """Return latents, trace, seconds, and the bytes sent to put the decoded frames together."""
    controller = pipe.controller()
    started = time.monotonic()
    latents = pipe.sample_latents([prompt], progress=False, controller=controller)
    pipe.decode(latents, progress=False)
    seconds = time.monotonic() - started
    sent = 0 if pipe.group is None else pipe.group.traffic.sent["decode"]
    return latents, None if controller is None else controller.trace, seconds, sent


def _steps(trace: Trace | None) -> list[int]:
    return [] if trace is None else trace.computed_steps


def _sent(group: VideoGroup, trace: Trace | None, computed: bool) -> Sent | None:
    calls = [
        call
        for index, call in enumerate(group.traffic.calls)
        if (trace is None or trace.records[index].computed) == computed
    ]
    return Sent(*(max(call.get(name, 0) for call in calls) for name in PURPOSES)) if calls else None


def _largest(all_of_them: Sequence[Sent | None]) -> Sent | None:
    known = [sent for sent in all_of_them if sent is not None]
    return Sent(*(max(getattr(sent, name) for sent in known) for name in PURPOSES)) if known else None


def _milliseconds(trace: Trace | None, computed: bool) -> float | None:
    spent = [] if trace is None else [record.milliseconds for record in trace.records if record.computed == computed]
    return median(spent) if spent else None


def table(results: Sequence[ArrangementResult]) -> str:
    """Format the results as a table."""
    lines = [
        f"{'arrangement':34}{'steps':>10}{'bytes sent by a process, per step':>44}{'ms':>8}"
        f"{'largest difference':>20}  same steps",
        f"{'':34}{'':10}{'in the blocks':>18}{'schedule':>12}{'output':>14}",
    ]
    for result in results:
        kinds = (("computed", result.computed, 0), ("reused", result.reused, 1))
        for name, sent, which in kinds:
            if sent is None:
                continue
            spent = result.milliseconds[which]
            lines.append(
                f"{str(result.shape) if not which else '':34}{name:>10}{sent.blocks:>18,}{sent.schedule:>12,}"
                f"{sent.output:>14,}{'' if spent is None else f'{spent:.1f}':>8}"
                + (f"{result.error:>20.1e}  {'yes' if result.same_schedule else 'NO'}" if not which else "")
            )
        total = f"bytes for its frames, {result.seconds:.2f} s in all"
        lines.append(f"{'':34}{'video':>10}{result.decode_sent:>18,} {total}")
    return "\n".join(lines)
