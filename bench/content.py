"""Does the content of a video decide how fast its residuals change, and does it pay to adapt to that?

Measured for each class of content: the distance between the residuals of neighboring steps when every step is computed,
the steps that AdaCache computes, and its quality compared with a fixed list of as many steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from tqdm import tqdm

from adacache import AdaCacheConfig, Codebook, Trace
from adacache.atomic import atomic_path
from adacache.calibration.quality import psnr
from adacache.plot_style import FAINT, STYLE
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from mini.world.captions import MOTION_MIX, Scene, draw_scene, max_draws
from opensora.config.loading import load_config
from opensora.device import limit_threads
from opensora.errors import ConfigError
from opensora.pipeline import SamplingPipeline

CLASSES = (*MOTION_MIX, "textured", "drifting", "pan", "pair")


def content_class(scene: Scene) -> str:
    """Return the motion of a single figure before a plain background at rest, else the kind of scene."""
    return scene.main.motion if scene.kind == "plain" else scene.kind


def captions_by_class(count: int, seed: int, held_out: bool = True) -> dict[str, list[str]]:
    """Draw `count` different captions of every class, from one side of the held-out split.

    Raises:
        ConfigError: a class does not have as many.
    """
    rng = np.random.default_rng(seed)
    captions: dict[str, dict[str, None]] = {name: {} for name in CLASSES}
    draws = 0
    while any(len(found) < count for found in captions.values()):
        if draws == max_draws(count):
            rarest = min(captions, key=lambda name: len(captions[name]))
            raise ConfigError(f"found only {len(captions[rarest])} captions of the class '{rarest}', not {count}")
        draws += 1
        scene = draw_scene(rng, held_out)
        found = captions[content_class(scene)]
        if len(found) < count:
            found[scene.caption()] = None
    return {name: list(found) for name, found in captions.items()}


@dataclass(frozen=True)
class Sampled:
    """One video (F, H, W, 3) uint8 and how its steps went."""

    frames: np.ndarray
    trace: Trace


def observing(config: AdaCacheConfig) -> AdaCacheConfig:
    """Return a config that measures as `config` does but computes every step."""
    return replace(config, codebook=Codebook((), (1,)))


def sample_with(pipe: SamplingPipeline, cache: PolicyConfig, caption: str, seed: int) -> Sampled:
    """Sample one caption under a policy."""
    pipe.cache = cache
    output = pipe([caption], seed=seed, progress=False)
    return Sampled(output.videos[0], output.traces[0])


def average_schedule(schedules: Sequence[Sequence[int]], length: int) -> tuple[int, ...]:
    """Return a list of about `length` steps: the mean place of each schedule's k-th computed step.

    Schedules of other lengths are stretched to it first; places that round to the same step are one.
    """
    at = np.linspace(0, 1, length)
    places = np.mean([np.interp(at, np.linspace(0, 1, len(s)), s) for s in schedules], axis=0)
    return tuple(sorted({int(round(place)) for place in places}))


def fixed_list(schedules: Sequence[Sequence[int]], num_steps: int, length: int) -> StaticScheduleConfig:
    """Return `average_schedule` as a policy of at most `length` steps; like AdaCache, it computes the last two."""
    forced = {0, num_steps - 2, num_steps - 1}
    candidates = (forced.union(average_schedule(schedules, n)) for n in range(length, 0, -1))
    return StaticScheduleConfig(tuple(sorted(next(steps for steps in candidates if len(steps) <= length))))


def at_equal_compute(row: Mapping[str, Any], steps: float) -> float:
    """Interpolate the PSNR of the shorter and the longer fixed list to a mean of `steps` computed steps."""
    short, long = row["computed_short"], row["computed_long"]
    if short == long:
        return row["psnr_short"]
    weight = (steps - short) / (long - short)
    return (1 - weight) * row["psnr_short"] + weight * row["psnr_long"]


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each class the means of every number and curve in its rows."""
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        members = [row for row in rows if row["class"] == name]
        keys = [key for key in members[0] if key not in ("class", "caption", "seed")]
        summary[name] = {key: np.mean([member[key] for member in members], axis=0).tolist() for key in keys}
    return summary


def spread_shares(rows: Sequence[Mapping[str, Any]], key: str = "distances") -> float:
    """Return the share of the variance of log distances (mean over steps) that is between classes, not within them."""
    logs = {name: [] for name in dict.fromkeys(row["class"] for row in rows)}
    for row in rows:
        logs[row["class"]].append(np.log(row[key]))
    everything = np.concatenate([np.array(values) for values in logs.values()])
    within = np.mean([np.var(values, axis=0) for values in logs.values()], axis=0)
    return float(1 - within.mean() / np.var(everything, axis=0).mean())


def plot(summary: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Plot distance curves per class, and beside them the steps AdaCache computes and its gain over the fixed list."""
    with rc_context(STYLE), atomic_path(path) as temporary:
        _draw(summary).savefig(temporary, format="png")


def _draw(summary: Mapping[str, Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    curves, steps, gain = figure.subplots(1, 3, width_ratios=(2.2, 1, 1))
    colors = dict(zip(summary, colormaps["tab20"].colors, strict=False))
    for name, values in summary.items():
        curve = values["distances"]
        curves.plot(range(2, len(curve) + 2), curve, label=name, color=colors[name])
    curves.set(yscale="log", xlabel="step", ylabel="relative change of the residual", title="every step computed")
    curves.legend(ncols=2)
    names, palette = list(summary), [colors[name] for name in summary]
    steps.barh(names, [summary[name]["computed_adacache"] for name in names], color=palette)
    steps.set(title="steps AdaCache computes", xlabel="steps")
    difference = [summary[name]["gain"] for name in names]
    gain.barh(names, difference, color=palette)
    gain.axvline(0, color=FAINT, linewidth=0.8)
    gain.set(title="AdaCache over fixed lists", xlabel="dB", yticklabels=[])
    for axes in (steps, gain):
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    return figure


def study(config_path: str, captions: int, tune_captions: int, folder: Path) -> int:
    """Sample, summarize and draw; the result is printed and written to `folder`.

    Args:
        captions: held-out captions of each class.
        tune_captions: training captions of each class, for the fixed lists.

    Raises:
        ConfigError: a class does not have as many captions, or the config does not use AdaCache.
        WeightsError: the model's weights cannot be used.
    """
    classes = captions_by_class(captions, seed=5)
    training = captions_by_class(tune_captions, seed=11, held_out=False)
    config = load_config(config_path)
    if not isinstance(config.cache, AdaCacheConfig):
        raise ConfigError(f"{config_path} does not use AdaCache; give a config that does")
    pipe = SamplingPipeline.from_config(config)
    limit_threads(pipe.model)
    adacache, steps = pipe.cache, pipe.scheduler.num_sampling_steps
    tuning = [caption for of_class in training.values() for caption in of_class]
    schedules = [
        sample_with(pipe, adacache, caption, seed).trace.computed_steps
        for seed, caption in enumerate(tqdm(tuning, desc="fixed list"))
    ]
    length = sum(map(len, schedules)) // len(schedules)
    caches = {"adacache": adacache}
    for label, count in (("short", length), ("long", length + 1)):
        caches[label] = fixed_list(schedules, steps, count)
        print(f"fixed list: {', '.join(map(str, caches[label].computed_steps))}")
    rows = []
    jobs = [(name, caption) for name, of_class in classes.items() for caption in of_class]
    for seed, (name, caption) in enumerate(tqdm(jobs, desc="sampling")):
        full = sample_with(pipe, observing(adacache), caption, seed)
        row = {"class": name, "caption": caption, "seed": seed}
        row["distances"] = [record.distance for record in full.trace.records if record.distance is not None]
        for label, cache in caches.items():
            sampled = sample_with(pipe, cache, caption, seed)
            row[f"computed_{label}"] = sampled.trace.num_computed
            row[f"psnr_{label}"] = psnr(sampled.frames, full.frames)
        rows.append(row)
    mean_steps = sum(row["computed_adacache"] for row in rows) / len(rows)
    for row in rows:
        row["gain"] = row["psnr_adacache"] - at_equal_compute(row, mean_steps)
    summary = summarize(rows)
    print(f"{'class':<12}{'mean change':>12}{'steps':>8}{'AdaCache dB':>13}{'over fixed lists':>18}")
    for name, values in summary.items():
        change = sum(values["distances"]) / len(values["distances"])
        print(
            f"{name:<12}{change:>12.4f}{values['computed_adacache']:>8.1f}"
            f"{values['psnr_adacache']:>13.1f}{values['gain']:>+15.1f} dB"
        )
    gains = [row["gain"] for row in rows]
    error = stdev(gains) / len(gains) ** 0.5
    print(
        f"over fixed lists of as many steps ({mean_steps:.1f}): {sum(gains) / len(gains):+.1f} +- {error:.1f} dB (s.e.)"
    )
    share = spread_shares(rows)
    print(f"share of the variance of log change that lies between classes: {share:.0%}")
    folder.mkdir(parents=True, exist_ok=True)
    plot(summary, folder / "curves.png")
    with atomic_path(folder / "rows.json") as temporary:
        temporary.write_text(json.dumps({"between_classes": share, "rows": rows}, indent=1) + "\n")
    print(f"wrote {folder}/curves.png and rows.json")
    return 0
