"""What is run for every clip: policies at their settings, and the references."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adacache.options import ReuseOptions
from adacache.policies.registry import config_to_dict
from bench.setting import digest

UNCACHED, EXACT = "uncached", "exact"


@dataclass(frozen=True)
class BenchPoint:
    """A policy with its options, or a reference.

    Attributes:
        policy: its name in the plan, or that of a reference.
        budget: computed steps it was tuned to; None where it was not.
        place: number among the policy's points without a budget, from 1.
        cache: the policy's config; None computes every step.
        solver, num_steps: of the run; None for the sampling config's own.
    """

    policy: str
    budget: int | None = None
    place: int | None = None
    cache: ReuseOptions | None = None
    solver: str | None = None
    num_steps: int | None = None

    @property
    def key(self) -> str:
        """Name of the point among those of a plan."""
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
        """A short hash of the options, by which finished videos are told from those of other options."""
        return digest(self.options)


def references(exact_steps: int, exact_solver: str | None = None) -> tuple[BenchPoint, BenchPoint]:
    """The run without reuse, and the one with many steps; solvers are the sampling config's own unless given."""
    return BenchPoint(UNCACHED), BenchPoint(EXACT, solver=exact_solver, num_steps=exact_steps)
