"""The contract between a schedule and what is kept for its reused steps."""

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
        timestep: the scheduler's value, None if the caller did not pass it.
        frames: the frames that take part.
        joined: whether other frames take part than in the step before, or another model runs.
        computed: whether its blocks are computed; False until that is decided.
    """

    index: int
    timestep: float | None
    frames: FrameSet
    joined: bool
    computed: bool = False


class Reuse:
    """Keeps tensors at computed steps and gives them back at reused ones, for one schedule of a run.

    A policy names its class (`Policy.reuse`). A new kind of reuse overrides the methods that it needs; they are called
    in the order in which they stand here. Tensors hold the rows of the schedule's videos only and, with a `shard`, this
    process's part of them. `context` tells apart guidance branches that run one after another.

    Attributes:
        name: what is reused, for the trace.
        by_video: whether each video of a batch may have a schedule of its own.
        takes_signal: whether `take_signal` is called, in every context.
        takes_branches: whether `branch` is called, for every branch of the model.
        takes_output: whether `output` is called; the model must then pass its output to the controller.
        holds_output: whether a reused step can do without the model, so that `held` is called.
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
        """Drop what is kept of the videos that are True, since their frames changed; None means all videos."""

    def begin_step(self, step: Step) -> None:
        """Begin a step that the policy has decided about."""

    def take_signal(self, context: str, signal: Tensor) -> None:
        """Take the policy's signal in one context, before its blocks are computed or reused."""

    def begin_blocks(self, context: str) -> None:
        """Prepare for the blocks, which are about to be computed."""

    def branch(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Return what a branch adds to the hidden states, while the blocks are computed."""
        return compute()

    def keep(self, step: Step, context: str, hidden_states: Tensor, output: Tensor) -> None:
        """Keep what reused steps need; the computed blocks turned `hidden_states` into `output`, both (B, N, C)."""

    def add(self, step: Step, context: str, hidden_states: Tensor) -> Tensor:
        """Return the replacement of the blocks' output at a reused step.

        Raises:
            RuntimeError: nothing is kept for the context.
            ValueError: what is kept has another shape or dtype.
        """
        return hidden_states

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """Return the model's output or its replacement; `observed` says whether this context is measured."""
        return output

    def held(self, context: str) -> Tensor:
        """Return the replacement of the model's output at a reused step at which the model is not called.

        Raises:
            RuntimeError: nothing is kept for the context.
        """
        raise nothing_kept(context, ())

    def settle(self, trace: Trace) -> None:
        """Report what was measured to the policy and the trace's last record; may wait for the device once."""

    def finish(self, trace: Trace) -> None:
        """Complete the trace at the end of a run."""

    def free(self) -> None:
        """Free all tensors."""

    @property
    def kept(self) -> list[KeptTensor]:
        """The tensors held now."""
        return []


def nothing_kept(context: str, known: Iterable[str]) -> RuntimeError:
    """Return the error for a reused step in a context that no computed step had."""
    stored = ", ".join(f"'{name}'" for name in known) or "nothing"
    return RuntimeError(
        f"no residual is stored for '{context}' (stored: {stored}); every guidance branch "
        "must also take part in the computed steps"
    )
