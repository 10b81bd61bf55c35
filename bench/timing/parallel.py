"""Measure what the processes that share a video send in each step, and whether their video is that of one process."""

from __future__ import annotations

import operator
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import median

from torch import Tensor

from adacache.trace import Trace
from opensora.acceleration.launch import MeshShape, choose_mesh
from opensora.acceleration.processes import Processes
from opensora.config.model_families import family_of
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError
from opensora.pipeline import SamplingPipeline


@dataclass(frozen=True)
class ArrangementResult:
    """One video under one arrangement.

    Attributes:
        sent: for "computed" and "reused", the most bytes that any process sent in such a step, by purpose; empty if
            it calls no model.
        milliseconds: of such steps, medians on rank 0; None without a cache.
        seconds: of denoising and decoding.
        decode_sent: bytes sent for decoding, once per video.
        error: largest difference of a latent to the latents of one process.
        same_schedule: whether all processes computed the steps that one process computes.
    """

    shape: MeshShape
    sent: dict[str, Counter[str]]
    milliseconds: dict[str, float | None]
    seconds: float
    decode_sent: int
    error: float
    same_schedule: bool


def arrangements(world_size: int, config: SampleConfig, size: tuple[int, int], rows: int) -> list[MeshShape]:
    """Return all ways to share one video among the processes; `size` is (latent frames, tokens per frame).

    Args:
        rows: of the model's batch for one video, two with guidance.

    Raises:
        ConfigError: there is none.
    """
    family = family_of(config.model.type)
    frames, tokens = size if family.splits_frames else (1, 1)
    if config.guidance_parallel or config.sequence_parallel:
        asked = (config.guidance_parallel, config.sequence_parallel)
        return [choose_mesh(world_size, 1, *asked, rows, latent_frames=frames, tokens_per_frame=tokens)]
    ways = range(1, rows + 1)
    shapes = [MeshShape(1, guidance, world_size // guidance) for guidance in ways if world_size % guidance == 0]
    shapes = [shape for shape in shapes if shape.sequence <= tokens]
    if not shapes:
        raise ConfigError(f"{world_size} processes cannot share one video of {family.name}; use {rows * tokens}")
    return shapes


def bench(
    processes: Processes, pipe: SamplingPipeline, prompt: str, shapes: Sequence[MeshShape]
) -> list[ArrangementResult]:
    """Sample and decode a prompt under every arrangement; all processes get all results."""
    expected, trace, _, _ = _sample(pipe, prompt)
    num_steps = pipe.scheduler.num_model_calls
    results = []
    for shape in shapes:
        group = processes.arrange(shape)
        own = SamplingPipeline(pipe.model, pipe.vae, pipe.text_encoder, pipe.scheduler, pipe.config, pipe.cache, group)
        latents, own_trace, seconds, decode_sent = _sample(own, prompt)
        calls = calls_of_steps(group.traffic.calls, own_trace, num_steps)
        steps = _steps(own_trace, num_steps)
        sent = {kind: _most(Counter(calls[index]) for index in indices) for kind, indices in steps.items()}
        everyone = processes.gather((sent, decode_sent, steps))
        results.append(
            ArrangementResult(
                shape,
                sent={kind: _most(theirs[kind] for theirs, _, _ in everyone) for kind in steps},
                milliseconds={kind: _milliseconds(own_trace, indices) for kind, indices in steps.items()},
                seconds=seconds,
                decode_sent=max(theirs for _, theirs, _ in everyone),
                error=(latents - expected).abs().max().item(),
                same_schedule=all(theirs == _steps(trace, num_steps) for _, _, theirs in everyone),
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


def calls_of_steps(
    calls: Sequence[Mapping[str, int]], trace: Trace | None, num_steps: int
) -> Sequence[Mapping[str, int]]:
    """Return the bytes by purpose of every step, from those of the model's calls.

    A step that combines earlier outputs does not call the model, and so sends nothing.
    """
    if trace is None or len(calls) == num_steps:
        return calls
    of_step = dict(zip(trace.computed_steps, calls, strict=True))
    return [of_step.get(index, {}) for index in range(num_steps)]


def _steps(trace: Trace | None, num_steps: int) -> dict[str, list[int]]:
    """Return the indices of computed and of reused steps; without a trace, all are computed."""
    computed = list(range(num_steps)) if trace is None else trace.computed_steps
    return {"computed": computed, "reused": [index for index in range(num_steps) if index not in computed]}


def _most(counters: Iterable[Counter[str]]) -> Counter[str]:
    """Return the largest count of each purpose."""
    return reduce(operator.or_, counters, Counter())


def _milliseconds(trace: Trace | None, steps: Sequence[int]) -> float | None:
    return median(trace.records[index].milliseconds for index in steps) if trace is not None and steps else None


def table(results: Sequence[ArrangementResult]) -> str:
    """Format the results as a table."""
    lines = [
        f"{'arrangement':34}{'steps':>10}{'bytes sent by a process, per step':>44}{'ms':>8}"
        f"{'largest difference':>20}  same steps",
        f"{'':34}{'':10}{'in the blocks':>18}{'schedule':>12}{'output':>14}",
    ]
    for result in results:
        shape, outcome = str(result.shape), f"{result.error:>20.1e}  {'yes' if result.same_schedule else 'NO'}"
        for kind, sent in result.sent.items():
            if not sent and result.milliseconds[kind] is None:
                continue  # there is no such step
            spent = result.milliseconds[kind]
            lines.append(
                f"{shape:34}{kind:>10}{sent['blocks']:>18,}{sent['schedule']:>12,}{sent['output']:>14,}"
                f"{'' if spent is None else f'{spent:.1f}':>8}{outcome}"
            )
            shape = outcome = ""  # said once
        total = f"bytes for its frames, {result.seconds:.2f} s in all"
        lines.append(f"{'':34}{'video':>10}{result.decode_sent:>18,} {total}")
    return "\n".join(lines)
