"""What a policy is: the contract between the mechanism (`StepController`) and the decisions."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal, NamedTuple, Protocol, get_args

from adacache.options import BridgeConfig
from adacache.sites import Part, Site, SiteGroup, Stream

HIDDEN_STATE_SIGNALS = ("modulated_input", "first_block")  # of the hidden states' size; others are small


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


class Held(NamedTuple):
    """How many tensors a run holds at most: `residuals` and `hidden_states` of that size, the latter kept exactly, and
    of the model's input and output; `filtered` of the input's size, but in float32.
    """

    residuals: int = 0
    hidden_states: int = 0
    latents: int = 0
    outputs: int = 0
    filtered: int = 0


class Policy:
    """Decides for one run which steps are computed. It holds numbers, no tensors, and dies with the run.

    The controller asks and tells in this order: `should_compute` at every step; if it is computed, `motion_strides`
    before the forward pass and `observe` after it. Steps are 0-based.

    Attributes:
        reuse: what a reused step does, "module:class" of an `adacache.reuse.base.Reuse`. By name, as policies are read
            with configs, which do not wait for torch.
        observed_sites: branches whose residuals are measured at computed steps.
        signal: name of what is measured before it is known whether a step is computed, as in `SignalPolicy`.
        needs_timestep: whether a step cannot be decided without its time.
    """

    reuse: ClassVar[str] = "adacache.reuse.stack:StackReuse"
    observed_sites: tuple[SiteGroup, ...] = ()
    signal: ClassVar[str | None] = None
    needs_timestep: ClassVar[bool] = False

    def should_compute(self, step_index: int) -> bool:
        """Whether the blocks are computed at this step. Asking changes nothing."""
        return True

    def motion_strides(self, step_index: int) -> tuple[int, ...]:
        """The frame distances at which motion is measured at this step; empty for no measurement."""
        return ()

    def observe(self, step_index: int, measurements: Sequence[Measurement]) -> Report:
        """Take note of a computed step; `measurements` are in execution order, none at the first one.

        A step is computed without having been asked for where other frames take part than before. There are no
        measurements either where no frame was generated in this step and the computed one before.
        """
        return Report()

    def held(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> Held:
        """The tensors of a run with `num_contexts` guidance branches, in a model of `num_blocks` per stream."""
        return Held(bridge.num_residuals * num_contexts, len(self.observed_sites))


class SignalChange(NamedTuple):
    """How much a signal differs from an earlier step's: mean|current - reference|, and mean|reference|."""

    difference: float
    magnitude: float

    @property
    def relative(self) -> float:
        """difference / magnitude; no change is 0 even where the reference is all zeros."""
        if self.difference == 0:
            return 0.0
        return self.difference / self.magnitude if self.magnitude else math.inf


class Decision(NamedTuple):
    """What a `SignalPolicy` decides about a step, and the numbers it went by, for the trace.

    `distance` is what it made of the signal's change, `value` what was compared with its threshold.
    """

    compute: bool
    distance: float | None = None
    value: float | None = None


class SignalPolicy(Policy, ABC):
    """Decides within a step, by how much a signal of the model changed since an earlier one.

    The model hands its signals to `StepController.stack` by name; the one named here is measured at every step, and
    the host waits for the number. Change is measured since the step before ("previous") or since the last step that was
    computed ("computed").

    Where the signal is itself the first part of the stack's residual, `adacache.reuse.stack.TailReuse` reuses the rest
    only. Where not the signal is compared but what a function of it and the flow's time gives, `signal_filter` names
    that, "module:function"; the rows and frames of what it gives, in float32, stand as those of the signal.
    """

    signal: ClassVar[str]
    reference: ClassVar[Literal["previous", "computed"]]
    signal_filter: ClassVar[str | None] = None

    @abstractmethod
    def decide(self, step_index: int, change: SignalChange | None) -> Decision:
        """Whether the blocks are computed at this step; asked once per step.

        `change` is None where there is nothing to compare with: at the first step, and where other frames take part
        than before. The step must be computed then, and what was added up starts anew. It is None, too, as long as no
        frame is generated.
        """

    def held(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> Held:
        """Residuals, and what the signal is compared with."""
        residuals, is_large = bridge.num_residuals * num_contexts, self.signal in HIDDEN_STATE_SIGNALS
        return Held(residuals, int(is_large), filtered=int(self.signal_filter is not None))


class OutputChange(NamedTuple):
    """Means over elements, at a computed step: of the model's input and output, to those of the computed step before.

    `input_difference` is mean|x - x'|, `output_difference` mean|out - out'|, both None at the first computed step and
    where other frames take part than before; `output_magnitude` is mean|out|. Of frames that are generated.
    """

    input_difference: float | None
    output_difference: float | None
    output_magnitude: float


class OutputPolicy(SignalPolicy):
    """Reuses the whole model instead of its blocks: a reused step's output is its input plus the last output - input.

    It is told about every computed step, if a frame is generated in it, before it decides about the next one. The
    input, and the output's channels up to the input's, are what `StepController.output` gets; its `signal` is mostly
    "latents".
    """

    reuse: ClassVar[str] = "adacache.reuse.output:OutputReuse"

    @abstractmethod
    def observe_output(self, step_index: int, change: OutputChange) -> None:
        """Take note of the input and the output of a computed step."""

    def held(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> Held:
        """For each context an input and an output, and one input more of the measured one."""
        return Held(latents=num_contexts + 1, outputs=num_contexts)


class BranchPolicy(Policy, ABC):
    """Decides for each residual branch of each block, by step and time alone; the stack itself always runs."""

    reuse: ClassVar[str] = "adacache.reuse.branches:BranchReuse"
    needs_timestep: ClassVar[bool] = True

    @abstractmethod
    def begin_step(self, step_index: int, timestep: float) -> None:
        """A step begins; `timestep` is the scheduler's, 1000 for noise down to 0."""

    @abstractmethod
    def computes(self, site: Site) -> bool:
        """Whether a branch is computed in this step, or what it added at its last computation is added again.

        Asking changes nothing. A branch that was never computed is, whatever the answer.
        """

    @abstractmethod
    def keeps(self, site: Site) -> bool:
        """Whether what this branch adds will ever be reused, so that it is worth its memory."""

    def held(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> Held:
        """A residual for each branch that is kept.

        Raises:
            ValueError: `num_blocks` is missing.
        """
        if num_blocks is None:
            raise ValueError("the memory of a policy that reuses single branches needs num_blocks")
        sites = product(get_args(Stream), range(num_blocks), get_args(Part))
        return Held(sum(self.keeps(Site(*site)) for site in sites) * num_contexts)


class PolicyConfig(Protocol):
    """The options of a policy: a frozen dataclass that checks itself and makes policies."""

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Refuse, with a ValueError, a run of `num_steps` or a model of `num_blocks` that the options do not fit."""
        ...

    def make_policy(self, num_steps: int) -> Policy:
        """A fresh policy for one run.

        Raises:
            ValueError: the options do not fit a run of `num_steps`.
        """
        ...
