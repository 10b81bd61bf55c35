"""Turn a plan into points: every policy at every budget, tuned on clips that are not measured, and kept on disk."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adacache import StepController
from adacache.atomic import atomic_path
from adacache.calibration.plan import Clip
from adacache.calibration.recorder import PolicyCalibration, SignalRecorder, fit_policies
from adacache.calibration.runner import Runner
from adacache.policies.base import PolicyConfig
from adacache.policies.registry import config_from_dict, config_to_dict
from adacache.policies.static import StaticScheduleConfig
from bench.plan import BenchPlan, PolicyPlan
from bench.points import BenchPoint, calibrated_schedule, complete, needs_calibration
from bench.setting import digest, path_of_setting
from bench.tuning import REACHED, BudgetSearch, Tried, best_codebook, final_latents, try_policy
from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError

logger = logging.getLogger(__name__)


class _TimeUpError(Exception):
    """A search needs a policy to be sampled after the deadline."""


class Tuner:
    """Finds the options with which policies meet budgets, and remembers in a file what it tried.

    Args:
        make_runner: loads the model; not called if the file has all that is needed.
        clips: clips to tune on.
        finished: called after each policy and budget that may need a search, with the name of the policy.
        deadline: time of `time.monotonic()` after which nothing is sampled, except for the baseline's first budget.
    """

    def __init__(
        self,
        plan: BenchPlan,
        config: SampleConfig,
        make_runner: Callable[[], Runner],
        clips: Sequence[Clip],
        file: TunedFile,
        finished: Callable[[str], object] = lambda _: None,
        deadline: float = math.inf,
    ) -> None:
        self.left_out: list[str] = []  # sentences
        self._plan = plan
        self._config = config
        self._make_runner = make_runner
        self._clips = clips
        self._file = file
        self._finished = finished
        self._deadline = deadline
        self._has_baseline = False  # whether the others have something to be compared with
        self._num_steps = config.scheduler.num_model_calls

    def points(self) -> list[BenchPoint]:
        """Return all points in the plan's order; budgets that cannot be met are noted in `left_out`.

        Raises:
            ConfigError: the plan has calibrated schedules only, and there is no calibration.
        """
        ways = {"threshold": self._by_threshold, "codebook": self._by_codebook, "calibrated": self._calibrated}
        points: dict[str, list[BenchPoint]] = {}
        # First the baseline, which all others are compared with, in case time runs out.
        for policy in sorted(self._plan.policies, key=lambda policy: policy.name != self._plan.baseline):
            if policy.settings:
                points[policy.name] = self._by_settings(policy)
            elif policy.steps:
                counts = self._budgets_of(policy)
                points[policy.name] = [BenchPoint(policy.name, n, solver=policy.solver, num_steps=n) for n in counts]
            else:
                points[policy.name] = ways[policy.tune](policy)
            self._has_baseline = True
        return [point for policy in self._plan.policies for point in points[policy.name]]

    def _calibrated(self, policy: PolicyPlan) -> list[BenchPoint]:
        try:
            found = {n: calibrated_schedule(self._config, policy, n) for n in self._budgets_of(policy)}
        except ConfigError as error:
            if len(self._plan.policies) == 1:
                raise
            self._leave_out(f"{policy.title}: {error}.")
            return []
        points = []
        for n, cache in found.items():
            nearest = len(cache.computed_steps)
            if nearest == n:
                points.append(BenchPoint(policy.name, n, cache=cache, solver=policy.solver))
            else:
                self._leave_out(f"{policy.title} has no schedule of {n} of {self._num_steps} steps: nearest {nearest}.")
        return points

    def _by_settings(self, policy: PolicyPlan) -> list[BenchPoint]:
        try:
            caches = [self._config_of({**(policy.cache or {}), **item}) for item in policy.settings]
        except _TimeUpError:
            self._leave_out(f"{policy.title} was not fitted to the model in the time that was given.")
            return []
        return [BenchPoint(policy.name, place=i, cache=cache) for i, cache in enumerate(caches, start=1)]

    def _by_codebook(self, policy: PolicyPlan) -> list[BenchPoint]:
        def choose(count: int) -> tuple[dict[str, Any], float]:
            def with_codebook(codebook: Any) -> dict[str, Any]:
                return {**policy.cache, "codebook": codebook.to_dict()}

            codebook, steps = best_codebook(lambda c: self._try(with_codebook(c)), self._num_steps, count)
            return with_codebook(codebook), steps

        return self._by_budget(policy, choose)

    def _by_threshold(self, policy: PolicyPlan) -> list[BenchPoint]:
        variants = [{**policy.cache, **item} for item in ({}, *policy.fallbacks)]
        searches = [
            BudgetSearch(lambda value, own=own: self._try({**own, "threshold": value}).steps) for own in variants
        ]

        def choose(budget: int) -> tuple[dict[str, Any], float]:
            found = []
            for own, search in zip(variants, searches, strict=True):
                threshold, steps = search.meet(budget)
                found.append(({**own, "threshold": threshold}, steps))
                if abs(steps - budget) <= REACHED:
                    break
            return min(found, key=lambda options_and_steps: abs(options_and_steps[1] - budget))

        return self._by_budget(policy, choose)

    def _by_budget(self, policy: PolicyPlan, choose: Callable[[int], tuple[dict[str, Any], float]]) -> list[BenchPoint]:
        """Return a point for every budget that the chosen options meet."""
        points = []
        for budget in self._budgets_of(policy):
            try:
                options, steps = choose(budget)
            except _TimeUpError:
                self._leave_out(f"{policy.title} was not tuned to {budget} steps in the time that was given.")
                continue
            self._finished(policy.name)
            self._has_baseline = True
            if abs(steps - budget) > REACHED:
                wanted = f"{budget} of {self._num_steps} steps on average"
                self._leave_out(f"{policy.title} cannot compute {wanted}: nearest {steps:.1f}.")
                continue
            points.append(BenchPoint(policy.name, budget, cache=self._config_of(options)))
        return points

    def _try(self, options: Mapping[str, Any]) -> Tried:
        """Return what a policy does on the tuning clips, which are sampled at most once for it.

        Raises:
            _TimeUpError: it would have to be sampled, and time is up.
        """
        config = self._config_of(options)
        if hasattr(config, "planned_steps"):  # a schedule that is the same for all videos
            return Tried(len(config.planned_steps(self._num_steps)), 0.0)
        key = config_to_dict(config)
        result = self._file.tried(key)
        if result is None:
            if self._is_late:
                raise _TimeUpError
            result = try_policy(self._runner, config, self._clips, self._exact)
            self._file.keep_tried(key, result)
            logger.debug("%s computes %.2f steps", key, result.steps)
        return result

    @property
    def _is_late(self) -> bool:
        return self._has_baseline and time.monotonic() > self._deadline

    def _config_of(self, options: Mapping[str, Any]) -> PolicyConfig:
        if needs_calibration(options) and self._file.policy_calibration is None:
            if self._is_late:
                raise _TimeUpError
            self._file.policy_calibration = calibrate_policies(self._runner, self._clips)
        return config_from_dict(complete(options, self._file.policy_calibration))

    def _budgets_of(self, policy: PolicyPlan) -> list[int]:
        """Return the policy's budgets; further ones, meant for a run of more steps, may not fit this one."""
        return [budget for budget in self._plan.budgets_of(policy) if budget < self._num_steps]

    def _leave_out(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self.left_out.append(sentence)

    @cached_property
    def _runner(self) -> Runner:
        return self._make_runner()

    @cached_property
    def _exact(self) -> np.ndarray:
        return final_latents(self._runner, None, self._clips)[0]


class TunedFile:
    """What policies did on the tuning clips of one setting, so that a search that is repeated samples nothing.

    A file of another setting is set aside under another name, and taken up again when a bench has that setting.

    Args:
        setting: plain values that the results depend on.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any]) -> None:
        self._path = path
        self._data: dict[str, Any] = {"setting": digest(setting), "policy_calibration": None, "tried": {}}
        kept = self._read(path)
        if kept is not None and kept["setting"] != self._data["setting"]:
            aside = path_of_setting(path, kept["setting"])
            os.replace(path, aside)
            logger.warning("%s is of another setting: it is kept as %s", path, aside.name)
        earlier = path_of_setting(path, self._data["setting"])
        if not path.is_file() and earlier.is_file():
            os.replace(earlier, path)
        kept = self._read(path)
        if kept is not None:
            self._data = kept

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Return the content of a file; None if there is none, or it is damaged."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return kept if isinstance(kept, dict) and kept.keys() == self._data.keys() else None

    @property
    def policy_calibration(self) -> PolicyCalibration | None:
        """Constants of policies that were measured on this model; None if they were not."""
        data = self._data["policy_calibration"]
        return None if data is None else PolicyCalibration.from_dict(data)

    @policy_calibration.setter
    def policy_calibration(self, calibration: PolicyCalibration) -> None:
        self._data["policy_calibration"] = calibration.to_dict()
        self._save()

    def tried(self, options: Mapping[str, Any]) -> Tried | None:
        """Return what a policy with these options did; None if it was not run."""
        found = self._data["tried"].get(digest(options))
        return None if found is None else Tried(**found["result"])

    def keep_tried(self, options: Mapping[str, Any], result: Tried) -> None:
        """Record what a policy with these options did."""
        self._data["tried"][digest(options)] = {"options": dict(options), "result": result._asdict()}
        self._save()

    def _save(self) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._data, indent=1) + "\n", encoding="utf-8")


def calibrate_policies(runner: Runner, clips: Sequence[Clip]) -> PolicyCalibration:
    """Run each clip once without reuse, and fit TeaCache's polynomial and MagCache's ratios.

    Raises:
        ValueError: there are too few steps and clips for a fit.
    """
    recorder = SignalRecorder()
    every_step = StaticScheduleConfig(tuple(range(runner.num_steps)))
    inputs, outputs, ratios = [], [], []

    def collect(_latents: object) -> None:
        inputs.append(np.stack(recorder.input_changes, axis=1))  # (videos, steps - 1)
        outputs.append(np.stack(recorder.output_changes, axis=1))
        ratios.append(np.stack(recorder.ratios, axis=1))

    runner.sample(clips, StepController(every_step, observers=[recorder]), collect)
    return fit_policies(np.concatenate(inputs), np.concatenate(outputs), np.concatenate(ratios))
