"""What several GPUs would make of a video of the published model: counted work, and a prediction from it.

Counted are the operations and the bytes of the code that runs, on tensors without data: one process of an arrangement
goes through its forward passes, and its share of decoding, as if the others were there. What a GPU makes of that is a
model of three numbers for a machine; no GPU was used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adacache import StepController
from adacache.atomic import atomic_path
from adacache.plot_style import COMPUTED, FAINT, MOTION, STYLE
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.static import StaticScheduleConfig
from bench.timing.models import TWO_SECONDS, build_xl2, xl2_inputs
from opensora.acceleration.channel import Channel, Traffic, Transport
from opensora.acceleration.launch import MeshShape
from opensora.acceleration.video_group import VideoGroup
from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline

COLLECTIVES_PER_PAIR = 2  # of blocks: to tokens, and back to frames


class NoTransport(Transport):
    """Moves nothing, as the methods that it inherits do; for tensors without data."""


@dataclass(frozen=True)
class StepWork:
    """One process' part of one step: operations (two per multiply-add), and bytes sent by purpose."""

    flops: int
    sent: dict[str, int]


@dataclass(frozen=True)
class VideoWork:
    """The part of the busiest process in one video."""

    shape: MeshShape
    computed: StepWork
    reused: StepWork
    decode_flops: int
    collectives: int  # in the blocks of a computed step


@dataclass(frozen=True)
class Machine:
    """What a prediction supposes.

    Attributes:
        flops: operations per second that a GPU really does in this model.
        bandwidth: bytes per second that each GPU sends within a collective operation.
        latency: seconds of a collective operation that no size explains.
    """

    name: str
    flops: float
    bandwidth: float
    latency: float = 30e-6

    def seconds(self, work: VideoWork, num_steps: float, num_computed: float) -> float:
        """Of one video; nothing overlaps, and nothing but arithmetic and exchange takes time."""
        computed = num_computed * (self._step(work.computed) + work.collectives * self.latency)
        reused = (num_steps - num_computed) * self._step(work.reused)
        return computed + reused + work.decode_flops / self.flops

    def _step(self, step: StepWork) -> float:
        exchanges = self.latency if step.sent else 0.0
        return step.flops / self.flops + sum(step.sent.values()) / self.bandwidth + exchanges


def group_of(shape: MeshShape, rank: int) -> VideoGroup:
    """Process `rank` of one video's processes, which exists alone."""
    traffic, transport = Traffic(), NoTransport()

    def channel(index: int, size: int) -> Channel | None:
        return None if size == 1 else Channel(transport, index, size, traffic)

    guidance, sequence = divmod(rank, shape.sequence)
    return VideoGroup(
        shape,
        guidance=channel(guidance, shape.guidance),
        sequence=channel(sequence, shape.sequence),
        video=channel(rank, shape.per_video),
        traffic=traffic,
    )


def count_video(resolution: str, shape: MeshShape) -> VideoWork:
    """The work of the busiest process for a two-second video of STDiT3-XL/2 in bfloat16; some seconds."""
    model, vae = build_xl2("meta"), _build_vae()
    # The rank with the most frames computes the most; the last one, as parts are cut.
    computed, reused = count_steps(model, xl2_inputs(resolution, "meta"), group_of(shape, shape.per_video - 1))
    latents = xl2_inputs(resolution, "meta")["x"][:1]
    ranks = range(shape.per_video)
    decode = max(_count_decode(vae, latents, (rank, shape.per_video)) for rank in ranks)
    collectives = COLLECTIVES_PER_PAIR * model.config.depth if shape.sequence > 1 else 0
    return VideoWork(shape, computed, reused, decode, collectives)


@torch.no_grad()
def count_steps(model: STDiT3, inputs: dict[str, Any], group: VideoGroup) -> tuple[StepWork, StepWork]:
    """A computed step that is measured against an earlier one, and a reused one."""
    middle = model.config.depth // 2 - 1
    frames = inputs["x"].shape[2]
    measured = StepController(AdaCacheConfig(codebook="fast30", metric_blocks=(middle,)), group.shard(frames))
    replayed = StepController(StaticScheduleConfig((0,)), group.shard(frames))
    _, computed = _count_two_steps(model, inputs, group, measured)
    _, reused = _count_two_steps(model, inputs, group, replayed)
    return computed, reused


class _CountedError(Exception):
    """Both steps are counted; after an error nothing is read from the device, which here has no numbers."""


def _count_two_steps(
    model: STDiT3, inputs: dict[str, Any], group: VideoGroup, controller: StepController
) -> list[StepWork]:
    denoiser, work = group.model(model), []
    with contextlib.suppress(_CountedError), controller.run(2):
        for step in range(2):
            controller.begin_step(step)
            before = group.traffic.sent.copy()
            with FlopCounterMode(display=False) as counter:
                denoiser(**inputs, controller=controller)
            work.append(StepWork(counter.get_total_flops(), dict(group.traffic.sent - before)))
        raise _CountedError
    return work


@torch.no_grad()
def _count_decode(vae: VideoAutoencoderPipeline, latents: Tensor, share: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        for _ in vae.decode_chunks(latents, TWO_SECONDS, share=share):
            pass
    return counter.get_total_flops()


def published_rate(work: VideoWork, seconds: float, num_steps: int) -> float:
    """Operations per second of a GPU that makes a video in so many `seconds`, all steps computed."""
    return (num_steps * work.computed.flops + work.decode_flops) / seconds


def steps_of_speedup(work: VideoWork, num_steps: int, speedup: float) -> float:
    """How many computed steps make a video so many times faster on one GPU, by operations alone."""
    whole = num_steps * work.computed.flops + work.decode_flops
    fixed = num_steps * work.reused.flops + work.decode_flops
    return (whole / speedup - fixed) / (work.computed.flops - work.reused.flops)


def _build_vae() -> VideoAutoencoderPipeline:
    with torch.device("meta"):
        return VideoAutoencoderPipeline(VideoAutoencoderConfig()).to(torch.bfloat16).eval()


# Bytes per second that each GPU sends within a collective operation: what is usual, not what was measured.
LINKS = {"NVLink, 200 GB/s": 200e9, "PCIe, 20 GB/s": 20e9}
_NAMES = {"plain": "all computed", "cached": "AdaCache"}
SHAPES = tuple(MeshShape(1, *axes) for axes in ((1, 1), (2, 1), (2, 2), (2, 4)))
SPLITS_ALONE = tuple(MeshShape(1, 1, count) for count in (2, 4, 8))


@dataclass(frozen=True)
class Published:
    """Two seconds of Open-Sora v1.2 on one A100, as published with AdaCache (arXiv:2411.02397).

    Attributes:
        seconds: with every step computed.
        speedup: of AdaCache.
    """

    resolution: str
    num_steps: int
    seconds: float
    speedup: float

    @property
    def title(self) -> str:
        """Resolution and steps."""
        return f"{self.resolution}, 2 s, {self.num_steps} steps"


PUBLISHED = (Published("480p", 30, 54.02, 2.24), Published("720p", 100, 419.0, 4.7))


@dataclass(frozen=True)
class Prediction:
    """One video on several GPUs: seconds without and with the cache, and on one GPU without."""

    shape: MeshShape
    link: str
    plain: float
    cached: float
    alone: float


def predictions(setting: Published, works: Sequence[VideoWork]) -> list[Prediction]:
    """For every arrangement and link; `works` begin with that of one GPU."""
    alone = works[0]
    rate = published_rate(alone, setting.seconds, setting.num_steps)
    computed = steps_of_speedup(alone, setting.num_steps, setting.speedup)
    steps, results = setting.num_steps, []
    for link, bandwidth in LINKS.items():
        machine = Machine(link, rate, bandwidth)
        for work in works:
            plain, cached = machine.seconds(work, steps, steps), machine.seconds(work, steps, computed)
            results.append(Prediction(work.shape, link, plain, cached, machine.seconds(alone, steps, steps)))
    return results


def count_table(works: Iterable[VideoWork]) -> str:
    """What was counted, as Markdown."""
    lines = [
        "| GPUs | arrangement | TFLOP, computed step | MB sent in the blocks | B for the schedule | MB for the output "
        "| reused step: TFLOP | in the blocks | MB for the output | TFLOP, decoding |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for work in works:
        computed, reused = work.computed, work.reused
        cells = [
            str(work.shape.per_video),
            f"guidance {work.shape.guidance} x sequence {work.shape.sequence}",
            f"{computed.flops / 1e12:.1f}",
            f"{computed.sent.get('blocks', 0) / 1e6:.0f}",
            str(computed.sent.get("schedule", 0)),
            f"{computed.sent.get('output', 0) / 1e6:.1f}",
            f"{reused.flops / 1e12:.4f}",
            str(reused.sent.get("blocks", 0)),
            f"{reused.sent.get('output', 0) / 1e6:.1f}",
            f"{work.decode_flops / 1e12:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prediction_table(found: Sequence[Prediction]) -> str:
    """Seconds of one video and speedups over one GPU without a cache, as Markdown."""
    lines = ["| GPUs | arrangement | link | seconds, all computed | AdaCache |", "|---|---|---|---|---|"]
    for one in found:
        link = "-" if one.shape.per_video == 1 else one.link
        if one.shape.per_video == 1 and one.link != found[0].link:
            continue
        where = f"guidance {one.shape.guidance} x sequence {one.shape.sequence}"
        plain = f"{one.plain:.1f} ({one.alone / one.plain:.1f}x)"
        cached = f"{one.cached:.1f} ({one.alone / one.cached:.1f}x)"
        lines.append(f"| {one.shape.per_video} | {where} | {link} | {plain} | {cached} |")
    return "\n".join(lines)


def plot(found: Sequence[tuple[Published, Sequence[Prediction]]], path: Path) -> Path:
    """Speedups over one GPU without a cache, a panel for each setting, written to `path` (.png)."""
    with rc_context(STYLE), atomic_path(path) as temporary:
        _draw(found).savefig(temporary, format="png")
    return path


def _draw(found: Sequence[tuple[Published, Sequence[Prediction]]]) -> Figure:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (setting, all_of_them) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for link, style in zip(LINKS, ("-", "--"), strict=True):
            own = [one for one in all_of_them if one.link == link and one.shape in SHAPES]
            counts = [one.shape.per_video for one in own]
            for what, color in (("cached", COMPUTED), ("plain", MOTION)):
                speedups = [one.alone / getattr(one, what) for one in own]
                axes.plot(counts, speedups, f"o{style}", color=color, label=f"{_NAMES[what]}, {link}")
        axes.plot(counts, counts, ":", color=FAINT, label="as many times as GPUs")
        axes.set(title=setting.title, xlabel="GPUs for one video", ylabel="times as fast as one GPU, all computed")
        axes.set_xticks(counts)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
    figure.suptitle("Prediction from counted operations and bytes; no GPU was measured", fontsize=10)
    return figure
