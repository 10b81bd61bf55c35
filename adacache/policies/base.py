"""The contract between the mechanism (`StepController`) and a policy's decisions."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

from adacache.options import ELEMENT_BYTES, BridgeConfig, plain
from adacache.sites import Part, Site, SiteGroup, Stream
from adacache.validation import check_choice, check_count, check_keys

HIDDEN_STATE_SIGNALS = ("modulated_input", "first_block")  # of the hidden states' size; others are small


class Measurement(NamedTuple):
    """One observation of one computed step.

    `site` is the last site of its group, `distance` the relative change since the previous computed step, and `motion`
    the relative difference of frames in [0, 1], or None if it was not asked for or there is only one frame.
    """

    site: Site
    distance: float
    motion: float | None = None


@dataclass(frozen=True)
class Report:
    """What a policy reports about a computed step, for the trace; every field is optional.

    `value` is what was compared with the thresholds, `distance` the same before motion regularization, `rate` the
    number of steps until the next computation.
    """

    distance: float | None = None
    value: float | None = None
    motion_score: float | None = None
    motion_gradient: float | None = None
    rate: int | None = None


class TensorCounts(NamedTuple):
    """The largest number of tensors that a run holds, by kind.

    `residuals` and `hidden_states` have the size of hidden states, the latter always in their dtype; `latents` and
    `outputs` have the size of the model's input and output, `filtered` that of the input, but in float32.
    """

    residuals: int = 0
    hidden_states: int = 0
    latents: int = 0
    outputs: int = 0
    filtered: int = 0


class Policy:
    """Decides for one run which steps are computed. It holds numbers, no tensors, and dies with the run.

    The controller calls `should_compute` at every step; if the step is computed, it calls `motion_strides` before the
    forward pass and `observe` after it. Steps are 0-based.

    Attributes:
        reuse: the subclass of `adacache.reuse.base.Reuse` that serves reused steps, as "module:class": policies are
            imported with configs, which must not wait for torch.
        observed_sites: branches whose residuals are measured at computed steps.
        signal: name of what is measured before a step is decided, as in `SignalPolicy`.
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
        """Take note of a computed step; `measurements` are in execution order, and there are none at the first step.

        A step is also computed, without a call of `should_compute`, when other frames take part than before. There are
        no measurements, either, if no frame was generated both in this step and in the computed one before.
        """
        return Report()

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return what a run holds with `num_contexts` guidance branches, in a model of `num_blocks` per stream."""
        return TensorCounts(bridge.num_residuals * num_contexts, len(self.observed_sites))


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
    """A `SignalPolicy`'s decision about a step, and the numbers behind it, for the trace.

    `distance` is what the policy derived from the signal's change, `value` what it compared with its threshold.
    """

    compute: bool
    distance: float | None = None
    value: float | None = None


class SignalPolicy(Policy, ABC):
    """Decides within a step, by how much a signal of the model changed since an earlier one.

    The model passes its signals to `StepController.stack` by name. The policy's `signal` is measured at every step, and
    the host waits for the number. Its `reference` is the signal of the step before ("previous") or of the last computed
    step ("computed").

    If the signal is itself the first part of the stack's residual, `adacache.reuse.stack.TailReuse` reuses only the
    rest. A `signal_filter`, "module:function", is applied to the signal and the flow's time before anything is
    compared; its result is in float32, with the rows and frames of the signal.
    """

    signal: ClassVar[str]
    reference: ClassVar[Literal["previous", "computed"]]
    signal_filter: ClassVar[str | None] = None

    @abstractmethod
    def decide(self, step_index: int, change: SignalChange | None) -> Decision:
        """Decide whether the blocks are computed at this step; called once per step.

        `change` is None if there is nothing to compare with: at the first step, and when other frames take part than
        before. The step must then be computed, and sums of changes start anew. It is also None as long as no frame is
        generated.
        """

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return the residuals, and the reference of the signal."""
        residuals, is_large = bridge.num_residuals * num_contexts, self.signal in HIDDEN_STATE_SIGNALS
        return TensorCounts(residuals, int(is_large), filtered=int(self.signal_filter is not None))


class OutputChange(NamedTuple):
    """Changes of the model's input and output between two computed steps: means over elements of generated frames.

    `input_difference` is mean|x - x'| and `output_difference` mean|out - out'|, both None at the first computed step
    and when other frames take part than before; `output_magnitude` is mean|out|.
    """

    input_difference: float | None
    output_difference: float | None
    output_magnitude: float


class OutputPolicy(SignalPolicy):
    """Reuses the whole model instead of its blocks: a reused step's output is its input plus the last output - input.

    It is told about every computed step in which a frame is generated, before it decides about the next one. The input
    and the output are those passed to `StepController.output`, the output without the channels beyond the input's; the
    `signal` is usually "latents".
    """

    reuse: ClassVar[str] = "adacache.reuse.output:OutputReuse"

    @abstractmethod
    def observe_output(self, step_index: int, change: OutputChange) -> None:
        """Take note of the input and the output of a computed step."""

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return an input and an output for each context, and one more input that the measured one is compared with."""
        return TensorCounts(latents=num_contexts + 1, outputs=num_contexts)


class BranchPolicy(Policy, ABC):
    """Decides for each residual branch of each block, by step and time alone; the stack itself always runs."""

    reuse: ClassVar[str] = "adacache.reuse.branches:BranchReuse"
    needs_timestep: ClassVar[bool] = True

    @abstractmethod
    def begin_step(self, step_index: int, timestep: float) -> None:
        """Begin a step; `timestep` is the scheduler's, 1000 for noise down to 0."""

    @abstractmethod
    def computes(self, site: Site) -> bool:
        """Whether a branch is computed in this step; if not, it adds again what it added when it was last computed.

        Asking changes nothing. A branch that was never computed is computed whatever the answer.
        """

    @abstractmethod
    def keeps(self, site: Site) -> bool:
        """Whether what this branch adds will ever be reused, and so is worth its memory."""

    def tensor_counts(self, bridge: BridgeConfig, num_contexts: int, num_blocks: int | None) -> TensorCounts:
        """Return one residual for each branch that is kept.

        Raises:
            ValueError: `num_blocks` is missing.
        """
        if num_blocks is None:
            raise ValueError("the memory of a policy that reuses single branches needs num_blocks")
        sites = product(get_args(Stream), range(num_blocks), get_args(Part))
        return TensorCounts(sum(self.keeps(Site(*site)) for site in sites) * num_contexts)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What to cache, and how: the configs of all policies are frozen dataclasses that extend this class.

    Their own options say when a step is reused; the options of this class say how, whatever the policy.

    `bridge` takes every form that `BridgeConfig.from_value` knows. With `schedule` "sample" each video of a batch
    decides for itself, as it would alone; "batch" measures all together and decides for all, as the official code does.

    `cache_device` says where residuals are kept between steps: "model" on the model's own device, "cpu" in pinned CPU
    memory if that device is a CUDA device (elsewhere nothing is moved). `cache_dtype` is the precision in which
    residuals are kept for reused steps, None for that of the hidden states; tensors kept for measuring always keep
    their own. "bf16" has the range of "fp32"; "fp16" saturates at 65504, which residuals of large models can exceed.

    Raises:
        ValueError: an option is wrong; the message names it.
    """

    label: ClassVar[str] = "cache"  # name of the policy in error messages about its options

    bridge: BridgeConfig = BridgeConfig()
    schedule: Literal["sample", "batch"] = "sample"
    cache_device: Literal["model", "cpu"] = "model"
    cache_dtype: Literal["fp32", "bf16", "fp16"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bridge", BridgeConfig.from_value(self.bridge))
        check_choice("schedule", self.schedule, ("sample", "batch"))
        check_choice("cache_device", self.cache_device, ("model", "cpu"))
        if self.cache_dtype is not None:
            check_choice("cache_dtype", self.cache_dtype, ELEMENT_BYTES)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Read a config section.

        Raises:
            ValueError: an unknown key or a wrong value.
        """
        check_keys(f"{cls.label} option", options, [field.name for field in fields(cls)])
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain values; `from_dict` reads it back."""
        return plain(self)

    def refuse_bridge(self, because: str) -> None:
        """Refuse, with a ValueError, any bridge but "hold"; `because` says what the policy reuses instead."""
        if self.bridge.kind != "hold":
            raise ValueError(
                f"bridge '{self.bridge.kind}' cannot be used with {self.label}, which {because}; leave bridge out"
            )

    def refuse_cache_dtype(self, kept: str) -> None:
        """Refuse, with a ValueError, a `cache_dtype`; `kept` says what the policy keeps instead of residuals."""
        if self.cache_dtype is not None:
            raise ValueError(
                f"cache_dtype '{self.cache_dtype}' cannot be used with {self.label}, which keeps no residuals, only "
                f"{kept} as they are; leave cache_dtype out"
            )

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Refuse, with a ValueError, a run of `num_steps` or a model of `num_blocks` that the options do not fit."""
        check_count("num_steps", num_steps)

    def doubt(self, num_steps: int) -> str | None:
        """Return what to warn of before a run of `num_steps`, which is possible all the same; None if nothing."""
        return None

    def make_policy(self, num_steps: int) -> Policy:
        """Return a fresh policy for one run; a ValueError if the options do not fit a run of `num_steps`."""
        raise NotImplementedError
