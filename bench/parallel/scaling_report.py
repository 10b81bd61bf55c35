"""The prediction for 1 to 8 GPUs as tables and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adacache.atomic import atomic_path
from bench.parallel.scaling import Machine, VideoWork, published_rate, steps_of_speedup
from opensora.acceleration.mesh import MeshShape

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
    """For every arrangement and link; ``works`` begin with that of one GPU."""
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
    """Speedups over one GPU without a cache, a panel for each setting, written to ``path`` (.png)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, (setting, all_of_them) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for link, style in zip(LINKS, ("-", "--"), strict=True):
            own = [one for one in all_of_them if one.link == link and one.shape in SHAPES]
            counts = [one.shape.per_video for one in own]
            for what, color in (("cached", "tab:orange"), ("plain", "tab:blue")):
                speedups = [one.alone / getattr(one, what) for one in own]
                axes.plot(counts, speedups, f"o{style}", color=color, label=f"{_NAMES[what]}, {link}")
        axes.plot(counts, counts, ":", color="gray", label="as many times as GPUs")
        axes.set(title=setting.title, xlabel="GPUs for one video", ylabel="times as fast as one GPU, all computed")
        axes.set_xticks(counts)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", frameon=False, fontsize=8)
    figure.suptitle("Prediction from counted operations and bytes; no GPU was measured", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return path
