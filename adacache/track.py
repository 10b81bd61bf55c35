"""One schedule within a run: its decisions, residuals and trace."""

from collections.abc import Collection
from dataclasses import asdict, replace

from torch import Tensor

from adacache.frames import FrameSet
from adacache.meters import BranchMeter
from adacache.options import BridgeConfig
from adacache.policies.base import Policy
from adacache.residuals import ResidualHistory
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord, Trace


class Track:
    """What belongs to one video of a run, or to all of them where they share one schedule.

    Every tensor it is given holds the rows of its videos only. Here is what all kinds of policies need: residuals of
    the stack are kept at computed steps and added at reused ones. How a step comes to be computed is up to the kind,
    except where other frames take part than in the step before: it is computed then, and what steps before it left
    behind is not reused. A residual of the time when a frame was held knows nothing of the noise it joined with, and
    frames look at each other. Of a `shard`, the tensors are the part of the videos that it holds, while frames are
    told, and decisions made, for the whole of them.

    Attributes:
        signal: name of what has to be measured before it is known whether a step is computed; None if nothing.
        observed_sites: branches that are measured.
    """

    signal: str | None = None
    observed_sites: tuple[Site, ...] = ()

    def __init__(self, bridge: BridgeConfig, num_steps: int, store: TensorStore, shard: Shard = WHOLE) -> None:
        self.trace = Trace(num_steps, metadata={"bridge": bridge.to_dict()})
        self.computing = False
        self._bridge = bridge
        self._store = store
        self._shard = shard
        self._histories: dict[str, ResidualHistory] = {}  # by guidance context
        self._frames = FrameSet()  # that take part in this step
        self._joined = False  # whether they are others than in the step before

    def check_step(self, timestep: float | None) -> None:
        """Raises: ValueError when a step cannot begin this way; nothing has changed then."""

    def begin_step(self, step_index: int, timestep: float | None, frames: FrameSet, restart: bool = False) -> None:
        """A new step begins; waits for the measurements of the computed step before it.

        With `restart` it is computed by another model than before.
        """
        self.settle()
        self._joined = bool(self.trace.records) and (restart or frames != self._frames)
        if self._joined:
            self._forget(frames, restart)
        self._frames = frames
        self._decide_early(step_index, timestep)

    def _decide_early(self, step_index: int, timestep: float | None) -> None:
        """Decide about the step as far as it can be told when it begins."""
        raise NotImplementedError

    def _forget(self, frames: FrameSet, restart: bool) -> None:
        """Drop what cannot be reused now that other `frames` take part, or another model."""
        for history in self._histories.values():
            history.forget()

    def begin_forward(self, context: str, tokens_per_frame: int, observed: bool) -> None:
        """Get ready for the computed blocks of one context; only an `observed` one is measured."""
        if context in self._histories:
            self._histories[context].make_room()

    def observe(self, site: Site, residual: Tensor) -> None:
        """A branch of the observed context was computed."""

    def end_forward(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """The blocks of one context are done; keep the stack's residual."""
        self._store_residual(context, output - hidden_states)

    def reuse(self, context: str, hidden_states: Tensor) -> Tensor:
        """`hidden_states` plus the bridged residual of one context.

        Raises: RuntimeError when the context has none; ValueError when it has another shape or dtype.
        """
        self._check_known(context, [name for name, history in self._histories.items() if history.kept])
        return self._histories[context].add(self._step, hidden_states)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether a branch of the block is measured or reused."""
        return any(site.stream == stream and site.block == block for site in self.observed_sites)

    def settle(self) -> None:
        """Tell the policy and the trace what the last computed step measured, waiting for the device once."""

    def finish(self) -> None:
        """Complete the trace but for the times; reads the bridge's weights, which nothing had to wait for."""
        self.settle()
        if self._bridge.kind != "fitted" or not self._histories:
            return
        first = next(iter(self._histories.values()))  # the context that is measured, too
        for index, weight in zip(self.trace.computed_steps, first.read_weights(), strict=True):
            self.trace.records[index] = replace(self.trace.records[index], bridge_weight=weight)

    def free(self) -> None:
        """Let go of all tensors."""
        self._histories.clear()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [kept for history in self._histories.values() for kept in history.kept]

    def _begin_record(self, record: StepRecord) -> None:
        """Note what was decided about the step. Residuals of a reused one start on their way back."""
        self.computing = record.computed
        self.trace.records.append(record)
        if not record.computed:
            for history in self._histories.values():
                history.prefetch()

    def _store_residual(self, context: str, residual: Tensor) -> None:
        history = self._histories.setdefault(context, ResidualHistory(self._bridge, self._store, self._shard))
        history.store(self._step, residual, self._frames)

    def _check_known(self, context: str, stored: Collection[str]) -> None:
        if context not in stored:
            known = ", ".join(f"'{name}'" for name in stored) or "nothing"
            raise RuntimeError(
                f"no residual is stored for '{context}' (stored: {known}); every guidance branch "
                "must also take part in the computed steps"
            )

    @property
    def _step(self) -> int:
        return self.trace.records[-1].index


class StepTrack(Track):
    """The track of a `Policy`: a step is decided when it begins, by what computed steps before it measured."""

    def __init__(
        self, policy: Policy, bridge: BridgeConfig, num_steps: int, store: TensorStore, shard: Shard = WHOLE
    ) -> None:
        super().__init__(bridge, num_steps, store, shard)
        self._policy = policy
        self.observed_sites = tuple(dict.fromkeys(site for group in policy.observed_sites for site in group))
        self._observer = BranchMeter(policy.observed_sites, store, shard)
        self._awaits_readout = False

    def _decide_early(self, step_index: int, timestep: float | None) -> None:
        """Decide; residuals of a reused step travel while the model embeds its input."""
        compute = self._policy.should_compute(step_index) or self._joined
        self._begin_record(StepRecord(step_index, timestep, compute, joined=self._joined))

    def _forget(self, frames: FrameSet, restart: bool) -> None:
        """Also what another model's residuals would be measured against."""
        super()._forget(frames, restart)
        if restart:
            self._observer.free()

    def begin_forward(self, context: str, tokens_per_frame: int, observed: bool) -> None:
        """Also get ready to measure."""
        super().begin_forward(context, tokens_per_frame, observed)
        if observed:
            self._observer.begin_forward(tokens_per_frame, self._policy.motion_strides(self._step), self._frames)

    def observe(self, site: Site, residual: Tensor) -> None:
        """Measure a branch's residual if its site is of interest."""
        self._observer.observe(site, residual)

    def end_forward(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """Raises: RuntimeError when an observed site did not come by."""
        if observed:
            self._observer.end_forward()
            self._awaits_readout = True
        super().end_forward(context, hidden_states, output, observed)

    def settle(self) -> None:
        """See `Track`."""
        if not self._awaits_readout:
            return
        self._awaits_readout = False
        record = self.trace.records[-1]
        report = self._policy.observe(record.index, self._observer.read_out())
        self.trace.records[-1] = replace(record, **asdict(report))

    def free(self) -> None:
        """See `Track`."""
        super().free()
        self._observer.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """Also what is measured against."""
        return self._observer.kept + super().kept
