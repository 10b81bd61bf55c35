"""One schedule within a run: its decisions, measurements, residuals and trace."""

from dataclasses import asdict, replace

from torch import Tensor

from adacache.bridge import BridgeConfig
from adacache.observer import ResidualObserver
from adacache.policies.base import Policy
from adacache.residuals import ResidualHistory
from adacache.sites import Site
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord, Trace


class Track:
    """What belongs to one video of a run, or to all of them where they share one schedule.

    Every tensor it is given holds the rows of its videos only.
    """

    def __init__(self, policy: Policy, bridge: BridgeConfig, num_steps: int, store: TensorStore) -> None:
        self.trace = Trace(num_steps, metadata={"bridge": bridge.to_dict()})
        self.computing = False
        self._policy = policy
        self._bridge = bridge
        self._store = store
        self._observer = ResidualObserver(policy.observed_sites, store)
        self._histories: dict[str, ResidualHistory] = {}  # by guidance context
        self._awaits_readout = False

    def begin_step(self, step_index: int, timestep: float | None) -> None:
        """Decide about a step; waits for the measurements of the computed step before it.

        At a reused one the residuals are on their way back from here on, while the model embeds its input.
        """
        self.settle()
        self.computing = self._policy.should_compute(step_index)
        self.trace.records.append(StepRecord(step_index, timestep, self.computing))
        if not self.computing:
            for history in self._histories.values():
                history.prefetch()

    def begin_forward(self, context: str, tokens_per_frame: int, observed: bool) -> None:
        """Get ready for the computed blocks of one context; only an `observed` one is measured."""
        if context in self._histories:
            self._histories[context].make_room()
        if observed:
            self._observer.begin_forward(tokens_per_frame, self._policy.motion_strides(self._step))

    def observe(self, site: Site, residual: Tensor) -> None:
        """Measure a branch's residual if its site is of interest."""
        self._observer.observe(site, residual)

    def end_forward(self, context: str, residual: Tensor, observed: bool) -> None:
        """Keep the stack's residual of one context.

        Raises: RuntimeError when an observed site did not come by.
        """
        if observed:
            self._observer.end_forward()
            self._awaits_readout = True
        history = self._histories.setdefault(context, ResidualHistory(self._bridge, self._store))
        history.store(self._step, residual)

    def reuse(self, context: str, hidden_states: Tensor) -> Tensor:
        """`hidden_states` plus the bridged residual of one context.

        Raises: RuntimeError when the context has none; ValueError when it has another shape or dtype.
        """
        if context not in self._histories:
            known = ", ".join(f"'{name}'" for name in self._histories) or "nothing"
            raise RuntimeError(
                f"no residual is stored for '{context}' (stored: {known}); every guidance branch "
                "must also take part in the computed steps"
            )
        return self._histories[context].add(self._step, hidden_states)

    def settle(self) -> None:
        """Tell the policy and the trace what the last computed step measured, waiting for the device once."""
        if not self._awaits_readout:
            return
        self._awaits_readout = False
        record = self.trace.records[-1]
        report = self._policy.observe(record.index, self._observer.read_out())
        self.trace.records[-1] = replace(record, **asdict(report))

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
        self._observer.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return self._observer.kept + [kept for history in self._histories.values() for kept in history.kept]

    @property
    def _step(self) -> int:
        return self.trace.records[-1].index
