"""One policy of a bench: what it is called, its options, and how it meets budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opensora.config.reading import Source, check_names, read_fields

DEFAULT_BOUNDS = (1e-4, 10.0)


@dataclass(frozen=True, kw_only=True)
class PolicyPlan:
    """A policy, or a sampler without a cache.

    It meets budgets in one of these ways: ``tune`` "threshold" searches the option ``threshold``; "codebook" scales
    AdaCache's published codebook; "calibrated" takes the schedules of the sampling config's calibration; ``steps``
    samples with as many steps as the budget and no cache. With ``settings`` it is run with these options instead, and
    the compute falls where it falls.

    Attributes:
        about: one sentence for readers.
        source: where the policy comes from.
        ours: whether it is this project's own.
        cache: options as in a config's ``cache``; for "calibrated" what replaces those of the calibrated schedule.
        solver: None for the sampling config's own; another one goes with ``steps`` and "calibrated" only.
        calibration: file of "calibrated" schedules, such as another solver's; None for the sampling config's own.
        fallbacks: options that are tried, in this order, at budgets that are out of the reach of ``cache`` alone.
        bounds: smallest and largest threshold that is tried.
        further_budgets: at which this policy alone is run, so that its curve over compute reaches further than others':
            those that compute parts of steps spend more than their budget.
    """

    name: str
    cache: Mapping[str, Any] | None
    settings: tuple[Mapping[str, Any], ...]
    fallbacks: tuple[Mapping[str, Any], ...]
    title: str
    about: str = ""
    source: str = ""
    ours: bool = False
    solver: Literal["euler", "adams", "midpoint"] | None = None
    tune: Literal["threshold", "codebook", "calibrated"] | None = None
    calibration: str | None = None
    steps: bool = False
    bounds: tuple[float, float] = DEFAULT_BOUNDS
    further_budgets: tuple[int, ...] = ()

    @property
    def by_budget(self) -> bool:
        """Whether it is run once per budget."""
        return self.steps or self.tune is not None


def read_policies(entries: Any, source: Source) -> tuple[PolicyPlan, ...]:
    """The policies of a plan, in their order.

    Raises:
        ConfigError: none, an unknown key, a wrong value, or a policy that has no way or several to meet budgets.
    """
    if not isinstance(entries, Mapping) or not entries:
        raise source.error("policies", "'policies' must be a dict of at least one policy: name=dict(title=..., ...)")
    return tuple(_read_policy(name, options, source) for name, options in entries.items())


def _read_policy(name: str, options: Any, source: Source) -> PolicyPlan:
    section = f"policies.{name}"
    if not isinstance(options, Mapping):
        raise source.error(section, f"{section} must be a dict, got {options!r}")
    options = dict(options)
    check_names(options, set(PolicyPlan.__dataclass_fields__) - {"name"}, source, section)
    cache = options.pop("cache", None)
    if cache is not None:
        cache = _options(cache, f"{section}.cache", source)
    lists = {}
    for key in ("settings", "fallbacks"):
        value = options.pop(key, ())
        if not isinstance(value, list | tuple):
            raise source.error(f"{section}.{key}", f"{section}.{key} must be a list of dicts, got {value!r}")
        lists[key] = tuple(_options(item, f"{section}.{key}", source) for item in value)
    policy = read_fields(PolicyPlan, options, source, section, name=name, cache=cache, **lists)
    _check_way(policy, section, source)
    return policy


def _options(value: Any, key: str, source: Source) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise source.error(key, f"{key} must be a dict of cache options, got {value!r}")
    return dict(value)


def _check_way(policy: PolicyPlan, section: str, source: Source) -> None:
    """One way to meet budgets, and the options that it needs."""
    ways = {"tune": policy.tune is not None, "steps": policy.steps, "settings": bool(policy.settings)}
    given = [name for name, is_given in ways.items() if is_given]
    if len(given) != 1:
        problem = f"{' and '.join(given)} exclude each other" if given else "it does not say how it meets budgets"
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
    if not 0 < policy.bounds[0] < policy.bounds[1]:
        raise source.error(section, f"{section}.bounds must be two thresholds above 0, ascending")
