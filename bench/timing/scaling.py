"""Predict how fast several GPUs would make a video with the published model, from counted work.

Operations and bytes are counted in the code that runs, on tensors without data: one process of an arrangement goes
through its forward passes, and its share of decoding, as if the others were there. The time that GPUs need for it is
predicted from three numbers for a machine; no GPU is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from adacache import StepController
from adacache.atomic import atomic_path
from adacache.plot_style import COMPUTED, FAINT, MOTION, STYLE
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.static import StaticScheduleConfig
from bench.timing.models import TWO_SECONDS, build_xl2, xl2_inputs
from opensora.acceleration.channel import Channel, Traffic
from opensora.acceleration.launch import MeshShape
from opensora.acceleration.video_group import VideoGroup
from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderConfig, VideoAutoencoderPipeline

COLLECTIVES_PER_PAIR = 2  # of blocks: to tokens, and back to frames


@dataclass(frozen=True)
class StepWork:
    """One process' part of one step: operations (two per multiply-add), and bytes sent by purpose."""

    flops: int
    sent: dict[str, int]


@dataclass(frozen=True)
class VideoWork:
    """The busiest process' part of one video."""

    shape: MeshShape
    computed: StepWork
    reused: StepWork
    decode_flops: int
    collectives: int  # in the blocks of a computed step


@dataclass(frozen=True)
class Machine:
    """What a prediction assumes about the machine.

    Attributes:
        flops: operations per second that a GPU reaches in this model.
        bandwidth: bytes per second that each GPU sends within a collective operation.
        latency: seconds that a collective operation takes regardless of its size.
    """

    name: str
    flops: float
    bandwidth: float
    latency: float = 30e-6

    def seconds(self, work: VideoWork, num_steps: float, num_computed: float) -> float:
        """Predict the seconds of one video; nothing overlaps, and only arithmetic and exchange take time."""
        computed = num_computed * (self._step(work.computed) + work.collectives * self.latency)
        reused = (num_steps - num_computed) * self._step(work.reused)
        return computed + reused + work.decode_flops / self.flops

    def _step(self, step: StepWork) -> float:
        exchanges = self.latency if step.sent else 0.0
        return step.flops / self.flops + sum(step.sent.values()) / self.bandwidth + exchanges


@contextmanager
def group_of(shape: MeshShape, rank: int) -> Iterator[VideoGroup]:
    """Within the block, be process number `rank` of those of a video; there are no others, and nothing is sent."""
    traffic, everyone = Traffic(), list(range(shape.per_video))
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=shape.per_video)

    def channel(ranks: list[int]) -> Channel | None:
        return None if len(ranks) == 1 else Channel(dist.new_group(ranks), ranks, traffic)

    guidance, sequence = divmod(rank, shape.sequence)
    try:
        yield VideoGroup(
            shape,
            guidance=channel(everyone[sequence :: shape.sequence]),
            sequence=channel(everyone[guidance * shape.sequence :][: shape.sequence]),
            video=channel(everyone),
            traffic=traffic,
        )
    finally:
        dist.destroy_process_group()


def count_video(resolution: str, shape: MeshShape) -> VideoWork:
    """Count the busiest process' work for a two-second video of STDiT3-XL/2 in bfloat16; takes some seconds."""
    model, vae = build_xl2("meta"), _build_vae()
    # The rank with the most frames computes the most; by the way parts are cut, that is the last one.
    with group_of(shape, shape.per_video - 1) as group:
        computed, reused = count_steps(model, xl2_inputs(resolution, "meta"), group)
    latents = xl2_inputs(resolution, "meta")["x"][:1]
    ranks = range(shape.per_video)
    decode = max(_count_decode(vae, latents, (rank, shape.per_video)) for rank in ranks)
    collectives = COLLECTIVES_PER_PAIR * model.config.depth if shape.sequence > 1 else 0
    return VideoWork(shape, computed, reused, decode, collectives)


@torch.no_grad()
def count_steps(model: STDiT3, inputs: dict[str, Any], group: VideoGroup) -> tuple[StepWork, StepWork]:
    """Count a computed step, including the distance to an earlier one, and a reused step."""
    middle = model.config.depth // 2 - 1
    frames = inputs["x"].shape[2]
    measured = StepController(AdaCacheConfig(codebook="fast30", metric_blocks=(middle,)), group.shard(frames))
    replayed = StepController(StaticScheduleConfig((0,)), group.shard(frames))
    _, computed = _count_two_steps(model, inputs, group, measured)
    _, reused = _count_two_steps(model, inputs, group, replayed)
    return computed, reused


class _CountedError(Exception):
    """Ends a run after both steps are counted, so that nothing is read from a device without data."""


def _count_two_steps(
    model: STDiT3, inputs: dict[str, Any], group: VideoGroup, controller: StepController
) -> list[StepWork]:
    denoiser, work = group.model(model), []
    with suppress(_CountedError), controller.run(2):
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
    """Return the operations per second of a GPU that makes a video in `seconds` with every step computed."""
    return (num_steps * work.computed.flops + work.decode_flops) / seconds


def steps_of_speedup(work: VideoWork, num_steps: int, speedup: float) -> float:
    """Return how many computed steps make a video `speedup` times as fast on one GPU, by operations alone."""
    whole = num_steps * work.computed.flops + work.decode_flops
    fixed = num_steps * work.reused.flops + work.decode_flops
    return (whole / speedup - fixed) / (work.computed.flops - work.reused.flops)


def _build_vae() -> VideoAutoencoderPipeline:
    with torch.device("meta"):
        return VideoAutoencoderPipeline(VideoAutoencoderConfig()).to(torch.bfloat16).eval()


# Bytes per second that each GPU sends within a collective operation: usual values, not measured ones.
LINKS = {"NVLink, 200 GB/s": 200e9, "PCIe, 20 GB/s": 20e9}
_NAMES = {"plain": "all computed", "cached": "AdaCache"}
SHAPES = tuple(MeshShape(1, *axes) for axes in ((1, 1), (2, 1), (2, 2), (2, 4)))
SPLITS_ALONE = tuple(MeshShape(1, 1, count) for count in (2, 4, 8))


@dataclass(frozen=True)
class Published:
    """Two seconds of Open-Sora v1.2 on one A100, as published with AdaCache (arXiv:2411.02397).

    Attributes:
        seconds: time with every step computed.
        speedup: speedup of AdaCache.
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
    """Predict the video for every arrangement and link; the first of `works` must be that of one GPU."""
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
    """Return what was counted as a Markdown table."""
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
    """Return the seconds of one video, and speedups over one GPU without a cache, as a Markdown table."""
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
    """Plot speedups over one GPU without a cache, a panel for each setting, to `path` (.png)."""
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
