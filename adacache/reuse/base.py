"""What a reuse is: the contract between a schedule and what is kept for its reused steps."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from adacache.frames import FrameSet
from adacache.options import BridgeConfig
from adacache.policies.base import Policy
from adacache.shard import WHOLE, Shard
from adacache.sites import Site
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import Trace


class Step(NamedTuple):
    """One sampling step of a schedule.

    Attributes:
        index: 0-based; -1 before the first one.
        timestep: the scheduler's value, None where the caller did not tell.
        frames: that take part.
        joined: whether they are others than in the step before, or another model runs.
        computed: whether its blocks are; False as long as it is not decided.
    """

    index: int
    timestep: float | None
    frames: FrameSet
    joined: bool
    computed: bool = False


class Reuse:
    """What is kept at computed steps and given back at reused ones, for one schedule of a run.

    A policy names its class (`Policy.reuse`). A new kind overrides what it needs of the methods below, which are called
    in this order. Tensors hold the rows of the schedule's videos only and, of a `shard`, the part that it holds.
    `context` tells apart guidance branches that run one after another.

    Attributes:
        name: what is reused, for the trace.
        by_video: whether each video of a batch may have a schedule of its own.
        takes_signal: whether `take_signal` is called, in every context.
        takes_branches: whether `branch` is called, for every branch of the model.
        takes_output: whether `output` is called; the model must give its output then.
        holds_output: whether a reused step needs nothing of the model, and `held` is called.
        measures: whether `settle` is called.
    """

    name: ClassVar[str] = "stack"
    by_video: ClassVar[bool] = True
    takes_signal: ClassVar[bool] = False
    takes_branches: ClassVar[bool] = False
    takes_output: ClassVar[bool] = False
    holds_output: ClassVar[bool] = False
    measures: ClassVar[bool] = False

    def __init__(self, policy: Policy, bridge: BridgeConfig, store: TensorStore, shard: Shard = WHOLE) -> None:
        self.policy, self.bridge, self.store, self.shard = policy, bridge, store, shard

    def forget(self, videos: Sequence[bool] | None) -> None:
        """Drop what is kept of the videos that are True, as other frames of them take part; None for all."""

    def begin_step(self, step: Step) -> None:
        """It is decided whether the step is computed."""

    def take_signal(self, context: str, signal: Tensor) -> None:
        """The policy's signal in one context, before its blocks are computed or reused."""

    def begin_blocks(self, context: str) -> None:
        """The blocks are about to be computed."""

    def branch(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """What a branch adds to the hidden states while the blocks are computed."""
        return compute()

    def keep(self, step: Step, context: str, hidden_states: Tensor, output: Tensor) -> None:
        """The blocks were computed: they made `output` of `hidden_states`, (B, N, C) both."""

    def add(self, step: Step, context: str, hidden_states: Tensor) -> Tensor:
        """What stands in for the blocks' output at a reused step.

        Raises:
            RuntimeError: nothing is kept for the context.
            ValueError: it has another shape or dtype.
        """
        return hidden_states

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """What stands in for the model's output; `observed` in the context that is measured."""
        return output

    def held(self, context: str) -> Tensor:
        """What stands in for the model's output at a reused step at which the model is not called.

        Raises:
            RuntimeError: nothing is kept for the context.
        """
        raise nothing_kept(context, ())

    def settle(self, trace: Trace) -> None:
        """Tell the policy and the trace's last record what was measured; may wait for the device once."""

    def finish(self, trace: Trace) -> None:
        """Complete the trace at the end of a run."""

    def free(self) -> None:
        """Let go of all tensors."""

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return []


def nothing_kept(context: str, known: Iterable[str]) -> RuntimeError:
    """The error of a reused step in a context that no computed step had."""
    stored = ", ".join(f"'{name}'" for name in known) or "nothing"
    return RuntimeError(
        f"no residual is stored for '{context}' (stored: {stored}); every guidance branch "
        "must also take part in the computed steps"
    )
