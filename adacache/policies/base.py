"""What a policy is: the contract between the mechanism (`StepController`) and the decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from adacache.sites import Site, SiteGroup


class Measurement(NamedTuple):
    """One observation of one computed step.

    `site` is the last site of its group, `distance` the relative change since the previous computed step, and
    `motion` the relative difference of frames in [0, 1], or None where it was not asked for or there is one
    frame.
    """

    site: Site
    distance: float
    motion: float | None = None


@dataclass(frozen=True)
class Report:
    """What a policy has to say about a computed step; it goes into the trace, all of it is optional.

    `value` is what was compared with the thresholds, `distance` the same before motion regularization, `rate`
    the number of steps until the next computation.
    """

    distance: float | None = None
    value: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    rate: int | None = None


class Policy(Protocol):
    """Decides for one run which steps are computed. It holds numbers, no tensors, and dies with the run.

    The controller asks and tells in this order: `should_compute` at every step; if it is computed,
    `motion_strides` before the forward pass and `observe` after it. Steps are 0-based.
    """

    observed_sites: tuple[SiteGroup, ...]

    def should_compute(self, step_index: int) -> bool:
        """Whether the blocks are computed at this step. Asking changes nothing."""
        ...

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """The frame distances at which motion is measured at this step; empty for no measurement."""
        ...

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Take note of a computed step; `measurements` are in execution order, none at the first one."""
        ...


class PolicyConfig(Protocol):
    """The options of a policy: a frozen dataclass that checks itself and makes policies."""

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Raises: ValueError when the options do not fit a run of `num_steps` or a model of `num_blocks`."""
        ...

    def make_policy(self, num_steps: int) -> Policy:
        """A fresh policy for one run.

        Raises: ValueError when the options do not fit a run of `num_steps`.
        """
        ...
