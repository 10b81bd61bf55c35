"""What is run for every clip: policies at their settings, with their constants of the model, and the references."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adacache.calibration.recorder import PolicyCalibration
from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.multistep import MultistepConfig
from adacache.policies.registry import config_from_dict, config_to_dict
from adacache.policies.static import StaticScheduleConfig
from bench.plan import BenchPlan, PolicyPlan
from bench.setting import digest
from bench.tuning import scaled_codebook
from opensora.config.model_families import model_depth
from opensora.config.reading import Source
from opensora.config.schema import SampleConfig, SchedulerConfig
from opensora.config.target import apply_target, check_calibrated_model, timesteps_of
from opensora.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

UNCACHED, EXACT = "uncached", "exact"


@dataclass(frozen=True)
class BenchPoint:
    """A policy with its options, or a reference.

    Attributes:
        policy: its name in the plan, or that of a reference.
        budget: computed steps that it was tuned to; None if it was not tuned.
        place: number among the policy's points without a budget, from 1.
        cache: the policy's config; None computes every step.
        solver, num_steps: of the run; None for the sampling config's own.
    """

    policy: str
    budget: int | None = None
    place: int | None = None
    cache: PolicyConfig | None = None
    solver: str | None = None
    num_steps: int | None = None

    @property
    def key(self) -> str:
        """Name of the point, unique in a plan."""
        if self.budget is not None:
            return f"{self.policy}@{self.budget}"
        return self.policy if self.place is None else f"{self.policy}#{self.place}"

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options as plain values."""
        run = {"solver": self.solver, "num_sampling_steps": self.num_steps}
        run = {name: value for name, value in run.items() if value is not None}
        return run if self.cache is None else {**config_to_dict(self.cache), **run}

    @cached_property
    def digest(self) -> str:
        """A short hash of the options, which tells finished videos apart from those of other options."""
        return digest(self.options)


def references(exact_steps: int, exact_solver: str | None = None) -> tuple[BenchPoint, BenchPoint]:
    """Return the run without reuse, and the one with many steps; solvers are the sampling config's own unless given."""
    return BenchPoint(UNCACHED), BenchPoint(EXACT, solver=exact_solver, num_steps=exact_steps)


# Options that a calibration of the model sets if the plan does not: policy -> (option, attribute).
MEASURED = {"teacache": ("coefficients", "teacache_coefficients"), "magcache": ("ratios", "magcache_ratios")}


def needs_calibration(options: Mapping[str, Any]) -> bool:
    """Whether a policy's options lack a constant that is measured on the model."""
    name, _ = MEASURED.get(options.get("policy"), (None, None))
    return name is not None and name not in options


def complete(options: Mapping[str, Any], calibration: PolicyCalibration | None) -> dict[str, Any]:
    """Add to the options the constants that were measured on the model, if they lack any."""
    if not needs_calibration(options):
        return dict(options)
    name, attribute = MEASURED[options["policy"]]
    return {**options, name: list(getattr(calibration, attribute))}


def check_options(plan: BenchPlan, config: SampleConfig) -> None:
    """Refuse options that no run could use, before anything is loaded.

    Raises:
        ConfigError: names the policy of the plan.
    """
    source = Source(plan.path)
    steps = config.scheduler.num_model_calls
    depth = model_depth(config.model.from_pretrained, config.model.type, config.weights_dir)
    stand_in = PolicyCalibration(steps, 1, (1.0, 0.0), 1.0, (1.0,) * (steps - 1), 0.0)
    is_flow = isinstance(config.scheduler, SchedulerConfig)
    if plan.exact_solver is not None and not is_flow:
        raise source.error(
            "exact_solver",
            f"exact_solver='{plan.exact_solver}' needs Open-Sora's rectified flow; set exact_solver = None",
        )
    for policy in plan.policies:
        section = f"policies.{policy.name}"
        kind = (policy.cache or {}).get("policy")
        needs_flow = kind if kind == "average_velocity" else policy.solver and f"solver='{policy.solver}'"
        if needs_flow and not is_flow:
            raise source.error(
                section, f"{section}: {needs_flow} needs Open-Sora's rectified flow; leave the policy out"
            )
        for options in _variants(policy):
            if needs_calibration(options) and not is_flow:
                missing = MEASURED[kind][0]
                raise source.error(
                    section, f"{section}: {kind} is fitted on STDiT3 alone; leave the policy out, or give {missing}"
                )
            try:
                built = config_from_dict(complete(options, stand_in))
                if built is None:
                    raise ValueError("do_cache is off; leave the policy out, or cache out of it")
                built.validate(steps, depth)
                if doubt := built.doubt(steps):
                    logger.warning("%s: %s", section, doubt)
            except (ValueError, TypeError) as error:
                raise source.error(section, f"{section}: {one_line(error)}") from error
            if policy.tune == "codebook" and not isinstance(built, AdaCacheConfig):
                raise source.error(section, f"{section}: tune='codebook' scales AdaCache's; policy must be 'adacache'")
            if policy.tune == "threshold" and "threshold" not in {field.name for field in dataclasses.fields(built)}:
                raise source.error(section, f"{section}: policy '{options['policy']}' has no option 'threshold'")


def _variants(policy: PolicyPlan) -> list[dict[str, Any]]:
    """Return all options that the plan gives, except for calibrated schedules, whose options are not complete."""
    if policy.steps or policy.tune == "calibrated":
        return []
    if policy.tune == "codebook":
        return [{**policy.cache, "codebook": scaled_codebook(1, 1.0).to_dict()}]
    return [{**(policy.cache or {}), **item} for item in policy.settings or ({}, *policy.fallbacks)]


def calibrated_schedule(config: SampleConfig, policy: PolicyPlan, count: int) -> StaticScheduleConfig:
    """Return the schedule of `count` computed steps by the policy's calibration, or else the config's own.

    The policy's cache options replace those of the schedule; policy="static" takes only its list of steps, and
    policy="average_velocity" bridges its gaps with the weights of `average_velocity`.

    Raises:
        ConfigError: there is no calibration, or it is for something else.
        WeightsError: the model's folder holds no weights.
    """
    scheduler = config.scheduler
    if policy.solver is not None:
        scheduler = dataclasses.replace(scheduler, solver=policy.solver)
    calibration = policy.calibration or config.calibration
    target = dataclasses.replace(config, scheduler=scheduler, calibration=calibration, max_steps_computed=count)
    schedule: PolicyConfig = apply_target(target, Source(config.path)).cache
    check_calibrated_model(target)
    options = dict(policy.cache or {})
    kind, steps, num_steps = options.pop("policy", None), schedule.computed_steps, schedule.num_sampling_steps
    if kind == "static":
        schedule = StaticScheduleConfig(steps, num_steps)
    elif kind == "average_velocity":
        combined = [(half,) * 2 for half in average_velocity(steps, timesteps_of(target))]
        schedule = MultistepConfig(steps, num_steps, coefficients=combined)
    try:
        return dataclasses.replace(schedule, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"options of the calibrated schedule: {one_line(error)}") from error


def average_velocity(computed_steps: Sequence[int], times: Sequence[float]) -> list[tuple[float, ...]]:
    """Return the weights of the last two outputs, newest first, that give the mean velocity over each gap's steps.

    The velocity is taken to change linearly in time, as it did between the last two computed steps; the first gap holds
    its only output. `times` are those of all steps, descending to 0 after the last.

    Source: MeanCache (arXiv:2601.19961), whose average velocity comes from the difference of cached velocities.
    """
    ends = [*computed_steps[1:], len(times)]
    lengths = [start - end for start, end in zip(times, [*times[1:], 0.0], strict=True)]
    weights: list[tuple[float, ...]] = [(1.0,)]
    for before, step, end in zip(computed_steps, computed_steps[1:], ends[1:], strict=False):
        gap = range(step, end)
        passed = sum(lengths[i] * (times[step] - times[i]) for i in gap) / sum(lengths[i] for i in gap)
        slope = passed / (times[before] - times[step])
        weights.append((1 + slope, -slope) if slope else (1.0,))
    return weights
