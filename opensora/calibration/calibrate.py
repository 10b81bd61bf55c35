"""A calibration from beginning to end: record, search, try, measure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adacache.bridge import BridgeConfig
from adacache.calibration.calibration import Calibration, Point
from adacache.calibration.recording import Recording
from adacache.calibration.search import Schedule, best_schedules, neighbors
from adacache.calibration.simulation import Simulation
from adacache.policies.static import StaticScheduleConfig
from opensora.calibration.clips import Clip
from opensora.calibration.runs import Runner
from opensora.config.conditions import conditions_of, fingerprint
from opensora.config.target import timesteps_of
from opensora.utils.errors import ConfigError

if TYPE_CHECKING:
    from opensora.pipeline import SamplingPipeline

logger = logging.getLogger(__name__)

DAMPED = BridgeConfig("linear", weight=1.0, max_ratio=0.5)  # the whole slope, up to half the gap before
FEWEST_STEPS = 5  # of a run that leaves something to choose
FEWEST_COMPUTED = 4  # below, the bridge has next to nothing to go by
# Where a run is probed, as fractions of it: errors of the first steps matter most and differ most.
PROBED = (0.03, 0.07, 0.1, 0.13, 0.17, 0.2, 0.27, 0.37, 0.67, 0.97)
MEASURED = (0.2, 0.27, 0.33, 0.4, 0.5, 0.6, 0.7, 0.8)  # fractions of the steps that are computed


@dataclass(frozen=True)
class CalibrationPlan:
    """What is run for a calibration.

    Attributes:
        search: clips on which schedules are searched.
        held_out: other clips, on which the curve is measured.
        bridge: how reused steps get their residual; where it is fitted and candidates are tried, one of them takes
            the damped bridge instead, which is better where gaps are short.
        candidates: schedules per measured number of computed steps that are tried on the search clips.
        batch_size: clips sampled together.
    """

    search: tuple[Clip, ...]
    held_out: tuple[Clip, ...]
    bridge: BridgeConfig = BridgeConfig("fitted", weight=0.5)
    candidates: int = 3
    batch_size: int = 1

    @property
    def bridges(self) -> tuple[BridgeConfig, ...]:
        """The bridges to choose from, the first one where nothing is tried."""
        return (self.bridge, DAMPED) if self.bridge.kind == "fitted" and self.candidates > 1 else (self.bridge,)

    def probed_steps(self, num_steps: int) -> list[int]:
        """Steps at which one residual is reused to see what that does to the end; never the first."""
        return sorted({min(max(1, round(part * num_steps)), num_steps - 1) for part in PROBED})

    def measured_counts(self, num_steps: int) -> list[int]:
        """Numbers of computed steps that are measured."""
        counts = {round(part * num_steps) for part in MEASURED}
        return sorted(count for count in counts if FEWEST_COMPUTED <= count < num_steps)

    def num_candidates(self, num_computed: int, num_steps: int) -> int:
        """How many schedules of ``num_computed`` steps are tried; of few steps there are few variations."""
        return min(self.candidates, len(self.bridges) + (num_computed - 1) * (num_steps - num_computed))

    def num_clips(self, num_steps: int) -> int:
        """How many clips are sampled in all, most of them with some steps reused."""
        counts = self.measured_counts(num_steps)
        recorded = 1 + len(self.probed_steps(num_steps))
        tried = sum(self.num_candidates(count, num_steps) for count in counts)
        selection = 1 + tried if self.candidates > 1 else 0
        return len(self.search) * (recorded + selection) + len(self.held_out) * (1 + len(counts))


def calibrate(pipe: SamplingPipeline, plan: CalibrationPlan, finished: Callable[[int], object]) -> Calibration:
    """Calibrate a loaded pipeline.

    Args:
        finished: is told about every few finished clips; ``plan.num_clips`` says how many there will be.

    Raises:
        SamplingError: a run's latents or pixels are not finite.
        ConfigError: the run has too few steps to leave any out.
    """
    runner = Runner(pipe, plan.batch_size, finished)
    steps = runner.num_steps
    counts = plan.measured_counts(steps)
    if steps < FEWEST_STEPS:
        raise ConfigError(f"a run of {steps} steps is too short to be calibrated; take at least {FEWEST_STEPS}")
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
        conditions={
            "model": fingerprint(pipe.config.model.from_pretrained),
            "model_name": pipe.config.model.from_pretrained,
            **conditions_of(pipe.config),
        },
        # As a run's schedule is looked up by; the pipeline's own differ from them by what its dtype rounds off.
        timesteps=timesteps_of(pipe.config),
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
