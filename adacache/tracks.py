"""The other kinds of tracks: decided by a signal, reusing the model's output, reusing single branches."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from adacache.branches import BranchCache
from adacache.frames import FrameSet
from adacache.meters import SignalMeter
from adacache.options import BridgeConfig
from adacache.outputs import OutputHistory
from adacache.policies.base import BranchPolicy, OutputPolicy, Policy, SignalChange, SignalPolicy
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord
from adacache.track import StepTrack, Track


class SignalTrack(Track):
    """The track of a `SignalPolicy`: a step is decided within the stack, once its signal is measured."""

    def __init__(
        self, policy: SignalPolicy, bridge: BridgeConfig, num_steps: int, store: TensorStore, shard: Shard = WHOLE
    ) -> None:
        super().__init__(bridge, num_steps, store, shard)
        self.signal = policy.signal
        self._policy = policy
        self._meter = SignalMeter(policy.reference, store, shard)
        self._begun: tuple[int, float | None] = (0, None)
        self._head: dict[str, Tensor] = {}  # by context, while a step lasts
        if policy.is_head:
            self.trace.metadata["reuses"] = "tail"

    def _decide_early(self, step_index: int, timestep: float | None) -> None:
        """Nothing is decided yet."""
        self._begun = (step_index, timestep)
        self._head.clear()

    def _forget(self, frames: FrameSet, restart: bool) -> None:
        """Also what the signal would be compared with: the policy is told of no change, as at the first step."""
        super()._forget(frames, restart)
        self._meter.free()

    def measure(self, signal: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compare the signal of the observed context with its reference, on the device.

        Raises: ValueError when frames are held and the signal's do not stand in dimension 1.
        """
        if self._frames.videos is not None:
            frames = len(self._frames.videos[0][self._shard.frames])
            if signal.shape[1] % frames if frames else signal.shape[1]:
                raise ValueError(
                    f"the signal '{self.signal}' has shape {tuple(signal.shape)}, but dimension 1 must hold the "
                    f"{frames} frames, or their tokens frame by frame, where some frames are held"
                )
        return self._meter.measure(signal, self._frames)

    def decide(self, signal: Tensor, change: SignalChange | None) -> None:
        """Let the policy decide about the step."""
        index, timestep = self._begun
        decision = self._policy.decide(index, change)
        compute = decision.compute or self._joined
        self._meter.settle(signal, compute)
        self._begin_record(StepRecord(index, timestep, compute, decision.distance, decision.value, joined=self._joined))

    def take_head(self, context: str, signal: Tensor) -> None:
        """Note a signal that is the first part of this step's residual."""
        self._head[context] = signal

    @property
    def wants_head(self) -> bool:
        """Whether the signal is the first part of the residual, in every context."""
        return self._policy.is_head

    def end_forward(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """Keep what the blocks after the head added."""
        super().end_forward(context, self._after_head(context, hidden_states), output, observed)

    def reuse(self, context: str, hidden_states: Tensor) -> Tensor:
        """Add this step's own head and the residual of the blocks after it."""
        return super().reuse(context, self._after_head(context, hidden_states))

    def _after_head(self, context: str, hidden_states: Tensor) -> Tensor:
        return hidden_states + self._head.pop(context) if self.wants_head else hidden_states

    def free(self) -> None:
        """See `Track`."""
        super().free()
        self._head.clear()
        self._meter.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """Also what signals are compared with."""
        return self._meter.kept + super().kept


class OutputTrack(SignalTrack):
    """The track of an `OutputPolicy`: the stack of a reused step is skipped, and the model's output replaced."""

    def __init__(
        self, policy: OutputPolicy, bridge: BridgeConfig, num_steps: int, store: TensorStore, shard: Shard = WHOLE
    ) -> None:
        super().__init__(policy, bridge, num_steps, store, shard)
        self._outputs: dict[str, OutputHistory] = {}
        self._measured: OutputHistory | None = None  # of the observed context, until it is read
        self.trace.metadata["reuses"] = "output"

    def _forget(self, frames: FrameSet, restart: bool) -> None:
        """Also inputs and outputs."""
        super()._forget(frames, restart)
        self._outputs.clear()

    def end_forward(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """The stack leaves nothing behind."""

    def reuse(self, context: str, hidden_states: Tensor) -> Tensor:
        """`hidden_states` as they are: what the model makes of them is replaced."""
        return hidden_states

    def replace_output(self, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """`output` at a computed step, which keeps it; at a reused one what the last one makes of `latents`."""
        if not self.computing:
            self._check_known(context, self._outputs)
            return self._outputs[context].add(latents)
        history = self._outputs.setdefault(context, OutputHistory(self._store, self._shard))
        history.store(latents, output, self._frames)
        if observed:
            self._measured = history
        return output

    def settle(self) -> None:
        """See `Track`."""
        measured, self._measured = self._measured, None
        change = None if measured is None else measured.read_change()
        if change is not None:
            self._policy.observe_output(self._step, change)

    def free(self) -> None:
        """See `Track`."""
        super().free()
        self._outputs.clear()
        self._measured = None

    @property
    def kept(self) -> list[KeptTensor]:
        """Inputs and outputs, of the size of latents."""
        return super().kept + [kept for history in self._outputs.values() for kept in history.kept]


class BranchTrack(Track):
    """The track of a `BranchPolicy`: the stack runs at every step, some of its branches do not.

    A step counts as computed; the share of its branches that were computed stands in the trace. Where other frames take
    part in some videos of a batch, branches are computed for all, but new only for these.
    """

    def __init__(
        self, policy: BranchPolicy, bridge: BridgeConfig, num_steps: int, store: TensorStore, shard: Shard = WHOLE
    ) -> None:
        super().__init__(bridge, num_steps, store, shard)
        self._policy = policy
        self._cache = BranchCache(policy, store)
        self.trace.metadata["reuses"] = "branches"

    def check_step(self, timestep: float | None) -> None:
        """Raises: ValueError without a timestep, by which these policies decide."""
        if timestep is None:
            raise ValueError(
                "a policy of branches goes by the flow's time; pass it: controller.begin_step(index, timestep)"
            )

    def _decide_early(self, step_index: int, timestep: float | None) -> None:
        """Tell the policy the time; the stack will run."""
        self._policy.begin_step(step_index, timestep)
        self._begin_record(StepRecord(step_index, timestep, True, joined=self._joined))
        self._cache.num_asked = self._cache.num_computed = 0

    def _forget(self, frames: FrameSet, restart: bool) -> None:
        """What branches added to the videos that other frames take part in."""
        if restart:
            self._cache.free()
        else:
            self._cache.forget(frames.differs(self._frames))

    def watches(self, stream: Stream, block: int) -> bool:
        """Every block: the share of branches that are computed is of all of them."""
        return True

    def branch(self, context: str, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """What a branch adds to the hidden states, computed or reused."""
        return self._cache.run(context, site, compute)

    def end_forward(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """The stack leaves nothing behind; count its branches."""
        if self._cache.num_asked:
            share = self._cache.num_computed / self._cache.num_asked
            self.trace.records[-1] = replace(self.trace.records[-1], computed_share=share)

    def free(self) -> None:
        """See `Track`."""
        self._cache.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """A residual for each branch that is reused."""
        return self._cache.kept


def make_track(
    policy: Policy | SignalPolicy | BranchPolicy,
    bridge: BridgeConfig,
    num_steps: int,
    store: TensorStore,
    shard: Shard = WHOLE,
) -> Track:
    """The track that fits a policy."""
    if isinstance(policy, OutputPolicy):
        return OutputTrack(policy, bridge, num_steps, store, shard)
    if isinstance(policy, SignalPolicy):
        return SignalTrack(policy, bridge, num_steps, store, shard)
    if isinstance(policy, BranchPolicy):
        return BranchTrack(policy, bridge, num_steps, store, shard)
    return StepTrack(policy, bridge, num_steps, store, shard)
