"""Where steps are computed and how the gaps are bridged: all combinations at equal compute, on held-out captions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adacache import AdaCacheConfig, BridgeConfig, StepController
from adacache.atomic import atomic_path
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import Clip
from adacache.calibration.runner import Quality, Runner
from adacache.policies.base import PolicyConfig
from bench.studies.content import fixed_list

COUNTS = (8, 10, 12, 15, 20)  # computed steps of 30
BRIDGES = {
    "hold": BridgeConfig(),
    "linear .3": BridgeConfig("linear", 0.3),
    "linear .5": BridgeConfig("linear", 0.5),
    "linear .8": BridgeConfig("linear", 0.8),
    "linear 1, half the gap": BridgeConfig("linear", 1.0, max_ratio=0.5),
    "fitted": BridgeConfig("fitted", 0.5),
}
BASELINE = "AdaCache, hold"
DRAWN = {
    "AdaCache, hold": ("#c8642b", "o"),
    "AdaCache, fitted": ("#c8642b", "s"),
    "its average, hold": ("#7a7a7a", "o"),
    "calibrated, hold": ("#1f5fa8", "o"),
    "calibrated, as it chose": ("#1f5fa8", "s"),
    "Euler steps, no cache": ("#3a8f5c", "^"),
}


@dataclass(frozen=True)
class Outcome:
    """One combination on all clips: PSNR in dB to the uncached video and to the many-step one, and computed steps."""

    name: str
    count: int
    options: dict[str, Any]  # of the policy; with the setting they tell whether a finished outcome is of the same run
    setting: str
    to_uncached: list[float]
    to_exact: list[float]
    computed: list[int]


def combinations(
    tuned: Mapping[int, AdaCacheConfig],
    schedules: Mapping[int, Sequence[Sequence[int]]],
    calibration: Calibration,
    num_steps: int,
) -> Iterable[tuple[str, int, PolicyConfig]]:
    """Every placement with every bridge at every count, and the calibration's own choice: (name, count, policy).

    Args:
        tuned: AdaCache for each count.
        schedules: the steps AdaCache computed on training clips for each count; their average is a fixed list.
    """
    for count, adacache in tuned.items():
        average = fixed_list(schedules[count], num_steps, count)
        calibrated = calibration.schedule(count, calibration.timesteps)
        for bridge_name, bridge in BRIDGES.items():
            for name, policy in (("AdaCache", adacache), ("its average", average), ("calibrated", calibrated)):
                yield f"{name}, {bridge_name}", count, replace(policy, bridge=bridge)
        yield "calibrated, as it chose", count, calibrated


def compare(
    runner: Runner,
    policies: Iterable[tuple[str, int, PolicyConfig | None]],
    clips: Sequence[Clip],
    references: Mapping[str, Sequence[np.ndarray]],
    log: Path,
    setting: str,
) -> list[Outcome]:
    """Run all policies; finished ones are kept in ``log`` (JSON lines) and not run again.

    A policy of None computes every step of a run with ``count`` steps.

    Args:
        references: frames of the clips under "uncached" and "exact".
        setting: what else the outcomes depend on; only those of the same setting are taken from ``log``.
    """
    kept = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []
    outcomes = []
    for name, count, policy in policies:
        options = {} if policy is None else json.loads(json.dumps(policy.to_dict()))
        same = [
            outcome
            for outcome in kept
            if (outcome.name, outcome.count, outcome.options, outcome.setting) == (name, count, options, setting)
        ]
        if not same:
            quality = _run(runner, policy, count, clips, references["uncached"])
            outcome = Outcome(
                name,
                count,
                options,
                setting,
                quality.psnr,
                quality.against(references["exact"]).psnr,
                [trace.num_computed for trace in quality.traces] or [count] * len(clips),
            )
            same = [outcome]
            with log.open("a") as file:
                file.write(json.dumps(vars(outcome)) + "\n")
        outcomes.append(same[0])
    return outcomes


def differences(outcomes: Sequence[Outcome], clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """One row per combination: means, and the paired difference to the paper's AdaCache with its 95 % interval.

    Clips of one prompt are averaged first, so that the interval is over prompts.
    """
    prompts = sorted({clip.prompt for clip in clips})
    members = [[i for i, clip in enumerate(clips) if clip.prompt == prompt] for prompt in prompts]

    def by_prompt(values: Sequence[float]) -> np.ndarray:
        return np.array([np.mean([values[i] for i in own]) for own in members])

    rows = []
    for outcome in outcomes:
        baseline = next(other for other in outcomes if (other.name, other.count) == (BASELINE, outcome.count))
        row = {"name": outcome.name, "count": outcome.count, "computed": float(np.mean(outcome.computed))}
        for key in ("to_uncached", "to_exact"):
            own, base = by_prompt(getattr(outcome, key)), by_prompt(getattr(baseline, key))
            gain = own - base
            row |= {
                key: float(own.mean()),
                f"{key}_gain": float(gain.mean()),
                f"{key}_interval": float(1.96 * gain.std(ddof=1) / len(prompts) ** 0.5),
            }
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """A table of one line per combination and one column per count: the baseline in dB, the others as differences."""
    counts = sorted({row["count"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [
        "| where, how | " + " | ".join(f"{count} steps" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for name in names:
        cells = []
        for count in counts:
            row = next((row for row in rows if (row["name"], row["count"]) == (name, count)), None)
            if row is None:
                cells.append("-")
            elif name == BASELINE:
                cells.append(f"{row[key]:.1f} dB ({row['computed']:.1f} steps)")
            else:
                cells.append(f"{row[f'{key}_gain']:+.1f} +- {row[f'{key}_interval']:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(rows: Sequence[Mapping[str, Any]], path: Path, **details: Any) -> None:
    """Write the rows as JSON; the file appears complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**details, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")


def _run(
    runner: Runner, policy: PolicyConfig | None, count: int, clips: Sequence[Clip], reference: Sequence[np.ndarray]
) -> Quality:
    if policy is not None:
        return runner.quality(policy, clips, reference)
    with runner.sampler.steps(count):
        return Quality.of(runner.exact_frames(clips), reference)


def schedules_of(runner: Runner, policy: PolicyConfig, clips: Sequence[Clip]) -> list[list[int]]:
    """The steps that a policy computes of every clip."""
    controller = StepController(policy)
    found: list[list[int]] = []
    runner.sample(clips, controller, lambda _: found.extend(trace.computed_steps for trace in controller.traces))
    return found


def against_exact(references: Mapping[str, Sequence[np.ndarray]]) -> float:
    """Mean PSNR of the uncached clips to the many-step ones."""
    return float(np.mean(Quality.of(references["uncached"], references["exact"]).psnr))


def plot(rows: Sequence[Mapping[str, Any]], path: Path, uncached_to_exact: float) -> None:
    """PSNR over computed steps, to the uncached video and to the many-step one (PNG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    titles = {"to_uncached": "to the uncached video", "to_exact": "to the video of many steps"}
    for panel, (key, title) in zip(axes, titles.items(), strict=True):
        for name, (color, marker) in DRAWN.items():
            own = [row for row in rows if row["name"] == name]
            style = "--" if name.endswith("hold") else "-"
            panel.plot(
                [row["computed"] for row in own],
                [row[key] for row in own],
                style,
                color=color,
                marker=marker,
                label=name,
            )
        panel.set(xlabel="computed steps", ylabel="PSNR (dB)", title=title)
        panel.grid(alpha=0.3)
    axes[1].axhline(uncached_to_exact, color="0.3", linewidth=0.8, label="uncached video itself")
    axes[1].legend(loc="lower right", fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
