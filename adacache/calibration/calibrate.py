"""A calibration from beginning to end: record, search, try, measure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adacache.calibration.calibration import Calibration, Point
from adacache.calibration.plan import FEWEST_COMPUTED, CalibrationPlan
from adacache.calibration.runner import ClipSampler, Runner
from adacache.calibration.simulation import Recording, Schedule, Simulation, best_schedules, neighbors
from adacache.options import BridgeConfig
from adacache.policies.static import StaticScheduleConfig

logger = logging.getLogger(__name__)


def calibrate(
    sampler: ClipSampler,
    plan: CalibrationPlan,
    conditions: Mapping[str, Any],
    timesteps: Sequence[float],
    finished: Callable[[int], object],
) -> Calibration:
    """Calibrate a model.

    Args:
        conditions: what the calibration will hold for, by name, as plain values.
        timesteps: of every run, descending from noise.
        finished: is told about every few finished clips; ``plan.num_clips`` says how many there will be.

    Raises:
        ValueError: the run has too few steps to leave any out; otherwise as ``sampler``.
    """
    runner = Runner(sampler, plan.batch_size, finished)
    steps = runner.num_steps
    plan.check(steps)
    counts = plan.measured_counts(steps)
    recording = runner.record(plan.search, plan.probed_steps(steps))
    logger.info("recorded; searching schedules (seconds for 30 steps, two minutes for 100)")
    found = {
        bridge: best_schedules(Simulation(recording, bridge), range(FEWEST_COMPUTED, steps)) for bridge in plan.bridges
    }
    schedules = {
        count: StaticScheduleConfig(listed, bridge=plan.bridge) for count, listed in found[plan.bridge].items()
    }
    if plan.candidates > 1:
        schedules = _select(runner, plan, recording, found, counts)
    points, reused_cost = _measure(runner, plan, schedules, counts)
    return Calibration(
        conditions=conditions,
        timesteps=tuple(timesteps),
        bridge=plan.bridge,
        points=points,
        reused_cost=reused_cost,
        details={
            "search_prompts": sorted({clip.prompt for clip in plan.search}),
            "held_out_prompts": sorted({clip.prompt for clip in plan.held_out}),
            "held_out_clips": len(plan.held_out),
            "quality": "PSNR in dB of decoded frames against the same clip with every step computed",
        },
    )


def _select(
    runner: Runner,
    plan: CalibrationPlan,
    recording: Recording,
    found: Mapping[BridgeConfig, Mapping[int, Schedule]],
    counts: Sequence[int],
) -> dict[int, StaticScheduleConfig]:
    """For every measured count the best of a few candidates, really sampled on the search clips; others follow suit.

    The simulation ranks well but leaves out how errors change the trajectory. Its own best under every bridge, the best
    for plain reuse (which trusts no slope), and the nearest variations of the first are tried. Counts in between take
    the bridge of the nearest measured one.
    """
    simulation = Simulation(recording, plan.bridge)
    plain = best_schedules(Simulation(recording, BridgeConfig()), counts)
    exact = runner.exact_frames(plan.search)
    selected = {}
    for count in counts:
        best = found[plan.bridge][count]
        ranked = sorted(neighbors(best, runner.num_steps), key=simulation.quality, reverse=True)
        pairs = [(found[bridge][count], bridge) for bridge in plan.bridges]
        pairs += [(schedule, plan.bridge) for schedule in (plain[count], *ranked)]
        tried = [StaticScheduleConfig(steps, bridge=bridge) for steps, bridge in dict.fromkeys(pairs)]
        tried = tried[: plan.num_candidates(count, runner.num_steps)]
        qualities = [runner.quality(config, plan.search, exact).mean for config in tried]
        selected[count] = tried[qualities.index(max(qualities))]
        logger.debug("%d steps: %s", count, list(zip(tried, qualities, strict=True)))
    for count in found[plan.bridge].keys() - selected.keys():
        bridge = selected[min(counts, key=lambda measured: abs(measured - count))].bridge
        selected[count] = StaticScheduleConfig(found[bridge][count], bridge=bridge)
    return selected


def _measure(
    runner: Runner, plan: CalibrationPlan, schedules: Mapping[int, StaticScheduleConfig], counts: Sequence[int]
) -> tuple[tuple[Point, ...], float]:
    """All schedules as points, those of ``counts`` measured on the held-out clips; and the cost of a reused step."""
    exact = runner.exact_frames(plan.held_out)
    points = {count: Point(config.computed_steps, bridge=config.bridge) for count, config in schedules.items()}
    costs = []
    for count in counts:
        quality = runner.quality(schedules[count], plan.held_out, exact)
        costs.append(quality.reused_cost)
        points[count] = replace(
            points[count], psnr=quality.mean, psnr_error=quality.error, psnr_lowest=min(quality.psnr)
        )
    return tuple(points[count] for count in sorted(points)), sorted(costs)[len(costs) // 2]
