"""A calibration from beginning to end: record, search, fit, measure."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adacache.atomic import atomic_path
from adacache.calibration.calibration import Calibration, Point
from adacache.calibration.multistep import Fit, MultistepFitter, record_target
from adacache.calibration.plan import CalibrationPlan
from adacache.calibration.quality import psnr, reused_cost, standard_error
from adacache.calibration.runner import ClipSampler, Runner
from adacache.calibration.search import MultistepSimulation, Schedule, best_schedules, neighbors
from adacache.policies.multistep import MultistepConfig, read_coefficients
from adacache.trace import Trace

logger = logging.getLogger(__name__)

# How much more an early error may matter than a late one; fits tell which of these factors suits a model.
EARLY = (3.0, 1.0, 10.0, 30.0)


def calibrate(
    sampler: ClipSampler,
    plan: CalibrationPlan,
    conditions: Mapping[str, Any],
    timesteps: Sequence[float],
    finished: Callable[[int], object],
    checkpoint: Path | None = None,
    made_with: Mapping[str, Any] | None = None,
) -> Calibration:
    """Calibrate a model.

    Args:
        conditions: what the calibration will hold for, by name, as plain values.
        timesteps: times of every run, descending from noise.
        finished: called with the number of model calls that have just been done; `plan.num_calls` is their sum.
        checkpoint: file that keeps finished parts; a calibration that was stopped, or whose result was not saved, goes
            on from there. Delete it once the result is saved.
        made_with: what finished parts depend on besides, as plain values; a checkpoint of other ones is begun anew.

    Raises:
        ValueError: the run has too few steps to leave any out, or the checkpoint is another kind of file; or as
            `sampler` raises it.
    """
    plan.check(sampler.num_steps)
    facts = {"conditions": dict(conditions), "timesteps": list(timesteps), "made_with": made_with, **asdict(plan)}
    parts = _Parts(checkpoint, facts)
    fits = _fit(sampler, plan, parts, finished)
    points, reused_cost, uncached = _measure(sampler, plan, fits, parts, finished)
    return Calibration(
        conditions=conditions,
        timesteps=tuple(timesteps),
        aim=plan.aim,
        points=points,
        reused_cost=reused_cost,
        details={
            "fit_prompts": sorted({clip.prompt for clip in plan.fit}),
            "held_out_prompts": sorted({clip.prompt for clip in plan.held_out}),
            "held_out_clips": len(plan.held_out),
            "quality": f"PSNR in dB of decoded frames to {plan.reference}",
            **({} if uncached is None else {"uncached_psnr": uncached}),
        },
    )


def _fit(
    sampler: ClipSampler, plan: CalibrationPlan, parts: _Parts, finished: Callable[[int], object]
) -> dict[int, Fit]:
    """Return for every count the best fit of a few lists of computed steps, judged by the clips they were fitted to."""
    counts, num_clips, num_steps = plan.counts(sampler.num_steps), len(plan.fit), sampler.num_steps
    fits = {}
    for count in counts:
        kept = parts.get(f"fit {count}")
        if kept is not None:
            fits[count] = Fit(
                tuple(kept["computed_steps"]), read_coefficients(kept["coefficients"], count), kept["quality"]
            )
            finished(num_clips * plan.candidates * count)
    targets = []
    for batch in Runner.split(plan.fit, plan.batch_size):
        if len(fits) < len(counts):
            targets.append(record_target(sampler, batch, plan.refinement))
        finished(len(batch) * num_steps * plan.refinement)
    if not targets:
        return fits
    simulations = [MultistepSimulation(targets, num_steps, early) for early in EARLY[: plan.candidates]]
    searched = [best_schedules(simulation, counts) for simulation in simulations]
    fitter = MultistepFitter(sampler, targets, finished)
    for count in counts:
        if count in fits:
            continue
        lists = list(dict.fromkeys(found[count] for found in searched))
        if plan.candidates > len(EARLY):
            lists += _variations(lists, simulations[0], plan.candidates - len(lists))
        tried = [fitter.fit(steps) for steps in lists]
        finished(num_clips * count * (plan.candidates - len(lists)))  # lists that are the same are fitted once
        fits[count] = max(tried, key=lambda fit: fit.quality)
        logger.debug("%d steps: %s", count, [(fit.computed_steps, fit.quality) for fit in tried])
        parts.set(f"fit {count}", asdict(fits[count]))
    return fits


def _variations(lists: Sequence[Schedule], simulation: MultistepSimulation, count: int) -> list[Schedule]:
    """Return those neighbors of the first list that the simulation ranks highest."""
    others = (steps for steps in neighbors(lists[0], simulation.num_steps) if steps not in lists)
    return sorted(others, key=simulation.quality, reverse=True)[:count]


def _measure(
    sampler: ClipSampler,
    plan: CalibrationPlan,
    fits: Mapping[int, Fit],
    parts: _Parts,
    finished: Callable[[int], object],
) -> tuple[tuple[Point, ...], float, float | None]:
    """Return all fits as points, measured on the held-out clips; the cost of a reused step; and the uncached PSNR.

    The latter is the quality of videos with every step computed, if the aim is "solution", and None otherwise.
    """
    num_steps, held_out = sampler.num_steps, plan.held_out

    def sample(num_calls: int, policy: MultistepConfig | None = None) -> tuple[list[np.ndarray], list[Trace]]:
        runner = Runner(sampler, plan.batch_size, lambda clips: finished(clips * num_calls))
        return runner.frames(held_out, policy)

    with sampler.refined(plan.refinement):
        wanted, _ = sample(num_steps * plan.refinement)
    uncached = None
    if plan.aim == "solution":
        uncached = float(np.mean(list(map(psnr, sample(num_steps)[0], wanted))))
    points, costs = [], []
    for count, fit in sorted(fits.items()):
        measured = parts.get(f"measured {count}")
        if measured is None:
            frames, traces = sample(
                count, MultistepConfig(fit.computed_steps, num_steps, coefficients=fit.coefficients)
            )
            measured = {"psnr": list(map(psnr, frames, wanted)), "cost": reused_cost(traces)}
            parts.set(f"measured {count}", measured)
        else:
            finished(len(held_out) * count)
        found = measured["psnr"]
        costs.append(measured["cost"])
        quality = float(np.mean(found)), standard_error(found), min(found)
        points.append(Point(fit.computed_steps, *quality, coefficients=fit.coefficients))
    return tuple(points), sorted(costs)[len(costs) // 2], uncached


class _Parts:
    """Finished parts of a calibration, in a file that also says which one; without a path nothing is written.

    Raises:
        ValueError: the file is something else, which would be overwritten, or cannot be there.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = json.loads(json.dumps(facts))
        self._found: dict[str, Any] = {}
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise ValueError(f"{path} cannot be written as a checkpoint; name a file in a folder that exists")
        if path is not None and path.is_file():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                kept = None
            if not isinstance(kept, dict) or kept.keys() != {"facts", "parts"}:
                raise ValueError(f"{path} is not a checkpoint of a calibration; name another file, or delete it")
            if kept["facts"] == self._facts:
                self._found = kept["parts"]
            else:
                names = {*kept["facts"], *self._facts}
                changed = min(name for name in names if kept["facts"].get(name) != self._facts.get(name))
                logger.warning("%s was made with another '%s': the calibration begins anew", path, changed)

    def get(self, name: str) -> Any:
        """Return a finished part, or None."""
        return self._found.get(name)

    def set(self, name: str, value: Any) -> None:
        """Keep a finished part."""
        self._found[name] = value
        if self._path is not None:
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps({"facts": self._facts, "parts": self._found}), encoding="utf-8")
