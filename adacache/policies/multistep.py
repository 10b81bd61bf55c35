"""A solver with few, uneven steps: calibrated coefficients combine the outputs of the last computed steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adacache.options import BridgeConfig
from adacache.policies.base import TensorCounts
from adacache.policies.static import StaticSchedule, StaticScheduleConfig
from adacache.validation import is_finite, is_list

MOST_OUTPUTS = 4  # of one guidance half that a step may combine

Coefficients = tuple[tuple[float, ...], ...]  # [guidance half][output, the newest first]


@dataclass(frozen=True)
class MultistepConfig(StaticScheduleConfig):
    """Which steps are computed, and what stands in for the model's output from each of them until the next.

    From the k-th computed step on, this is, for each guidance half by itself, the sum over j of
    `coefficients[k][half][j]` times the output of computed step k - j; ((1.0,), (1.0,)) holds the output of step k.
    `adacache.calibration` finds coefficients for one model, sampler, number of steps and guidance. Halves are numbered
    by their rows in a batch, or by the calls of a step.

    A reused step costs no call of the model. When frames join, earlier outputs are not combined: the newest output is
    held until as many computed steps have followed as a combination needs.

    Raises:
        ValueError: steps and coefficients do not fit each other, or another option is wrong.
    """

    label: ClassVar[str] = "multistep"

    coefficients: tuple[Coefficients, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "coefficients", read_coefficients(self.coefficients, len(self.computed_steps)))
        if self.num_sampling_steps is None:
            raise ValueError("coefficients hold for one number of steps; give num_sampling_steps")
        self.refuse_bridge("combines outputs of the model instead of residuals")
        self.refuse_cache_dtype("a few outputs")
        if self.schedule != "sample":
            raise ValueError("multistep combines the outputs of each video separately; leave schedule='batch' out")

    def make_policy(self, num_steps: int) -> MultistepPolicy:
        """A policy for one run; a ValueError if the config was made for another number of steps."""
        self.validate(num_steps)
        return MultistepPolicy(self, num_steps)


class MultistepPolicy(StaticSchedule):
    """The policy of a `MultistepConfig`."""

    reuse: ClassVar[str] = "adacache.reuse.multistep:MultistepReuse"

    def __init__(self, config: MultistepConfig, num_steps: int) -> None:
        super().__init__(config.computed_steps, num_steps, config.measured_sites, config.motion_strides)
        self._steps = config.computed_steps
        self._coefficients: Mapping[int, Coefficients] = dict(zip(self._steps, config.coefficients, strict=True))
        self.num_halves = len(config.coefficients[0])
        self.num_outputs = max(len(half) for halves in config.coefficients for half in halves)

    def coefficients(self, steps: Sequence[int]) -> Coefficients:
        """Return how outputs of the computed `steps`, the newest first, are combined, for each guidance half.

        If these are not the steps that the coefficients were made for, the newest output is held.
        """
        own = self._coefficients.get(steps[0])
        if own is not None:
            place = self._steps.index(steps[0])
            needed = max(map(len, own))
            if tuple(steps[:needed]) == self._steps[place::-1][:needed]:
                return own
        return ((1.0,),) * self.num_halves

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return for each context the combination in use, and the outputs that the next combination needs."""
        return TensorCounts(hidden_states=len(self.observed_sites), outputs=self.num_outputs * num_contexts)


def read_coefficients(value: Any, num_computed: int) -> tuple[Coefficients, ...]:
    """Return coefficients as tuples.

    Raises:
        ValueError: they are not finite numbers for each computed step, guidance half and output; steps differ in their
            number of halves; or a step combines more outputs than there are by then.
    """
    if not is_list(value) or len(value) != num_computed:
        found = len(value) if is_list(value) else repr(value)
        raise ValueError(f"coefficients must be a list for each of the {num_computed} computed steps, got {found}")
    for place, halves in enumerate(value):
        if not is_list(halves) or not halves or len(halves) != len(value[0]):
            raise ValueError(
                f"coefficients of computed step {place} must list as many guidance halves as those of the first"
            )
        most = min(place + 1, MOST_OUTPUTS)
        for half in halves:
            if not is_list(half) or not 1 <= len(half) <= most or not all(map(is_finite, half)):
                raise ValueError(
                    f"coefficients of computed step {place} must be 1 to {most} finite numbers for each guidance half, "
                    f"got {half!r}"
                )
    return tuple(tuple(tuple(map(float, half)) for half in halves) for halves in value)
