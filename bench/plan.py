"""The plan of a bench, policy by policy: read from a plain Python file, checked at once, never changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, InstanceOf
from pydantic.dataclasses import dataclass

from opensora.config.entries import find_config, read_config_file
from opensora.config.reading import Source, check_names, read_fields
from opensora.config.schema import STRICT
from opensora.errors import ConfigError, suggest

REFERENCES = ("uncached", "exact")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PolicyPlan:
    """A policy, or a sampler without a cache.

    It meets budgets in one of these ways: `tune` "threshold" searches the option `threshold`; "codebook" scales
    AdaCache's published codebook; "calibrated" takes the schedules of the sampling config's calibration; `steps`
    samples with as many steps as the budget and no cache. With `settings` it is run with these options instead,
    whatever compute results.

    Attributes:
        about: one sentence for readers.
        source: where the policy comes from.
        ours: whether it is this project's own.
        cache: options as in a config's `cache`; for "calibrated", options that replace those of the schedule.
        solver: None for the sampling config's own; another one goes with `steps` and "calibrated" only.
        calibration: file of "calibrated" schedules, such as another solver's; None for the sampling config's own.
        fallbacks: options that are tried, in this order, at budgets that `cache` alone cannot meet.
        further_budgets: budgets at which only this policy is run, so that its curve over compute reaches further:
            policies that compute parts of steps spend more than their budget.
    """

    name: str
    title: str
    about: str = ""
    source: str = ""
    ours: bool = False
    solver: Literal["euler", "adams", "midpoint"] | None = None
    tune: Literal["threshold", "codebook", "calibrated"] | None = None
    cache: Mapping[str, Any] | None = None
    settings: tuple[Mapping[str, Any], ...] = ()
    fallbacks: tuple[Mapping[str, Any], ...] = ()
    calibration: str | None = None
    steps: bool = False
    further_budgets: tuple[int, ...] = ()

    @property
    def by_budget(self) -> bool:
        """Whether it is run once per budget."""
        return self.steps or self.tune is not None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchPlan:
    """Everything that a bench needs to know, except for what the sampling config says.

    Attributes:
        path: the file it was read from.
        sample: sampling config; its own cache is not used.
        policies: in the order of all tables.
        budgets: computed steps that policies are tuned to, ascending.
        prompts: file with one prompt per line; None for the sampling config's own.
        tuning_prompts: file of the prompts that budgets are tuned on; None for the remaining ones of `prompts`.
        tuning_clips: number of clips that budgets are tuned on.
        exact_steps: uncached steps of the second reference.
        exact_solver: solver of the second reference; None for the sampling config's own.
        showcase_prompts: indices of the prompts whose videos are kept; of a number, as many of the first prompts.
        showcase_budgets: budgets whose videos are kept.
        batch_size: clips sampled together while tuning; timed clips are sampled one by one.
        baseline: policy to which gains are the differences.
        best: policy that all others are compared with as well; None for no such comparison.
    """

    path: str
    policies: tuple[InstanceOf[PolicyPlan], ...]
    sample: str
    budgets: tuple[int, ...]
    baseline: str = "adacache"
    best: str | None = None
    title: str = "Policies at equal compute"
    prompts: str | None = None
    num_prompts: int = Field(32, ge=1)
    num_seeds: int = Field(2, ge=1)
    tuning_prompts: str | None = None
    tuning_clips: int = Field(16, ge=1)
    exact_steps: int = Field(200, ge=1)
    exact_solver: Literal["euler", "adams", "midpoint"] | None = None
    showcase_prompts: tuple[int, ...] | int = 6
    showcase_budgets: tuple[int, ...] = ()
    batch_size: int = Field(1, ge=1)
    sample_options: Mapping[str, Any] = Field(default_factory=dict)  # of the sampling config, by dotted key

    def __post_init__(self) -> None:
        source = Source(self.path)
        names = [policy.name for policy in self.policies]
        titles = [policy.title for policy in self.policies]
        for policy in self.policies:
            if titles.count(policy.title) > 1:
                message = f"title '{policy.title}' is that of two policies; tables tell them apart by it"
                raise source.error(f"policies.{policy.name}", message)
        for key in ("budgets", "showcase_budgets"):
            values = getattr(self, key)
            if any(value < 1 for value in values):
                raise source.error(key, f"{key} must be numbers of computed steps from 1, got {list(values)}")
            object.__setattr__(self, key, tuple(sorted(set(values))))
        if not self.budgets and any(policy.by_budget for policy in self.policies):
            raise source.error("budgets", "budgets is empty; give numbers of computed steps")
        if self.baseline not in names:
            raise source.error("baseline", f"baseline '{self.baseline}' is no policy of this bench; add it to the list")
        if self.best is not None and self.best not in names:
            object.__setattr__(self, "best", None)  # left out by --policies
        shown = [budget for budget in self.showcase_budgets if budget in self.budgets]
        object.__setattr__(self, "showcase_budgets", tuple(shown) or self.budgets[len(self.budgets) // 2 :][:1])
        if isinstance(self.showcase_prompts, int):
            object.__setattr__(self, "showcase_prompts", tuple(range(self.showcase_prompts)))
        if any(index < 0 for index in self.showcase_prompts):
            raise source.error("showcase_prompts", "showcase_prompts must be indices from 0, or a number of prompts")

    @property
    def name(self) -> str:
        """Name of the plan's file."""
        return Path(self.path).stem

    def budgets_of(self, policy: PolicyPlan) -> tuple[int, ...]:
        """Return the budgets that a policy is run at, ascending."""
        return tuple(sorted({*self.budgets, *policy.further_budgets})) if policy.by_budget else ()

    @property
    def num_searches(self) -> int:
        """How many settings are searched, one for each budget of the policies that search a setting."""
        return sum(len(self.budgets_of(policy)) for policy in self.policies if policy.tune in ("threshold", "codebook"))

    def with_changes(
        self,
        sample: str | None = None,
        prompts: str | None = None,
        tuning_prompts: str | None = None,
        policies: Sequence[str] | None = None,
        sample_options: Mapping[str, Any] | None = None,
        **numbers: Any,
    ) -> BenchPlan:
        """Return the plan with the values of the command line; None changes nothing.

        Another sampling config brings its own prompts, unless some are given.

        Raises:
            ConfigError: a policy is unknown, or a plan cannot have a value.
        """
        changes: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
        for key, value in changes.items():
            if any(number < 1 for number in (value if isinstance(value, list | tuple) else [value])):
                flag = key.removeprefix("num_").replace("_", "-")
                raise ConfigError(f"command line: --{flag} must be at least 1, got {value}")
        if "budgets" in changes:
            changes["budgets"] = tuple(changes["budgets"])
        if sample is not None:
            changes |= {"sample": sample, "prompts": None, "tuning_prompts": None}
        if prompts is not None:
            changes |= {"prompts": prompts, "tuning_prompts": None}
        if tuning_prompts is not None:
            changes["tuning_prompts"] = tuning_prompts
        if policies is not None:
            changes["policies"] = self._chosen(policies)
        if sample_options:
            changes["sample_options"] = {**self.sample_options, **sample_options}
        return read_fields(BenchPlan, {}, Source(self.path), **{**vars(self), **changes})

    def _chosen(self, names: Sequence[str]) -> tuple[PolicyPlan, ...]:
        known = [policy.name for policy in self.policies]
        for name in names:
            if name not in known:
                raise ConfigError(f"command line: unknown policy '{name}'; {suggest(name, known)}")
        if self.baseline not in names:
            raise ConfigError(
                f"command line: --policies leaves out '{self.baseline}', which gains are differences to; add it"
            )
        return tuple(policy for policy in self.policies if policy.name in names)


def read_plan(path: str | os.PathLike[str]) -> BenchPlan:
    """Read and check a bench's plan.

    Raises:
        ConfigError: the file is missing or unreadable, or an entry is unknown, of the wrong type or out of range.
    """
    file = find_config(path)
    entries = read_config_file(file).to_dict()
    if "scheduler" in entries and "policies" not in entries:
        raise ConfigError(
            f"{file} is a sampling config, not the plan of a bench; give it with --sample, as in "
            f"'python scripts/bench.py configs/bench/mini.py --sample {file}'"
        )
    return plan_from_dict(entries, str(file))


def plan_from_dict(entries: Mapping[str, Any], path: str = "bench") -> BenchPlan:
    """Make a plan of its entries and check it, as `read_plan` does after reading the file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type or out of range.
    """
    source, entries = Source(path), dict(entries)
    check_names(entries, set(BenchPlan.__pydantic_fields__) - {"path"}, source)
    policies = read_policies(entries.pop("policies", None), source)
    if any(policy.name in REFERENCES for policy in policies):
        raise source.error("policies", f"{' and '.join(REFERENCES)} are the references; give a policy another name")
    return read_fields(BenchPlan, entries, source, path=path, policies=policies)


def read_policies(entries: Any, source: Source) -> tuple[PolicyPlan, ...]:
    """Read the policies of a plan, in their order; None leaves one of a base plan out.

    Raises:
        ConfigError: there is none, a key is unknown, a value is wrong, or a policy does not have one way to meet
            budgets.
    """
    if not isinstance(entries, Mapping) or not entries:
        raise source.error("policies", "'policies' must be a dict of at least one policy: name=dict(title=..., ...)")
    return tuple(_read_policy(name, options, source) for name, options in entries.items() if options is not None)


def _read_policy(name: str, options: Any, source: Source) -> PolicyPlan:
    section = f"policies.{name}"
    if not isinstance(options, Mapping):
        raise source.error(section, f"{section} must be a dict, got {options!r}")
    policy = read_fields(PolicyPlan, options, source, section, name=name)
    _check_way(policy, section, source)
    return policy


def _check_way(policy: PolicyPlan, section: str, source: Source) -> None:
    """Refuse a policy that does not have exactly one way to meet budgets, with the options that it needs."""
    ways = {
        "tune": policy.tune is not None,
        "steps": policy.steps,
        "settings": bool(policy.settings),
    }
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) != 1:
        problem = f"{' and '.join(given)} cannot be combined" if given else "it does not say how it meets budgets"
        raise source.error(section, f"{section}: {problem}; give tune, steps=True or settings")
    if policy.steps and policy.cache is not None:
        raise source.error(section, f"{section}: steps=True computes every step; leave cache out")
    if not policy.steps and policy.tune != "calibrated" and policy.solver is not None:
        raise source.error(section, f"{section}: solver goes with steps=True or tune='calibrated'; leave it out")
    if policy.tune != "calibrated" and policy.calibration is not None:
        raise source.error(section, f"{section}: calibration goes with tune='calibrated'; leave it out")
    if policy.tune in ("threshold", "codebook") and (policy.cache is None or "policy" not in policy.cache):
        raise source.error(section, f"{section}: tune='{policy.tune}' needs cache=dict(policy=...)")
    if policy.settings and any("policy" not in {**(policy.cache or {}), **item} for item in policy.settings):
        raise source.error(section, f"{section}: settings need cache=dict(policy=...)")
    if policy.fallbacks and policy.tune != "threshold":
        raise source.error(section, f"{section}: fallbacks go with tune='threshold'")
    if policy.further_budgets and (policy.settings or min(policy.further_budgets) < 1):
        raise source.error(section, f"{section}.further_budgets must be numbers from 1, and do not go with settings")
