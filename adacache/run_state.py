"""Everything one run knows: made when the run starts, gone when it ends."""

from collections.abc import Callable
from dataclasses import asdict, replace

from torch import Tensor

from adacache.clock import StepClock
from adacache.observer import ResidualObserver
from adacache.policies.base import Policy
from adacache.residuals import ResidualStore
from adacache.sites import Site
from adacache.trace import StepRecord, Trace


class RunState:
    """One run: policy, stored residuals, measurements and trace. `StepController` documents the methods."""

    def __init__(self, policy: Policy, num_steps: int) -> None:
        self.trace = Trace(num_steps)
        self._policy = policy
        self._residuals = ResidualStore()
        self._observer = ResidualObserver(policy.observed_sites)
        self._clock: StepClock | None = None  # needs a device, known from the first hidden states
        self._computing = False
        self._measuring = False  # only while the blocks of the observed context run
        self._awaits_readout = False
        self._observed_context: str | None = None
        self._contexts: set[str] = set()  # that called the stack in this step

    def begin_step(self, step_index: int, timestep: float | None) -> None:
        expected, num_steps = len(self.trace.records), self.trace.num_steps
        if step_index != expected or expected >= num_steps:
            wanted = f"step {expected}" if expected < num_steps else "the end of the run"
            raise ValueError(
                f"begin_step got step {step_index}, expected {wanted}; "
                f"call it once for each of 0..{num_steps - 1}, in this order"
            )
        self._check_stack_was_called()
        self.settle()
        self._contexts.clear()
        self._computing = self._policy.should_compute(step_index)
        timestep = None if timestep is None else float(timestep)
        self.trace.records.append(StepRecord(step_index, timestep, self._computing))

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[[Tensor], Tensor],
        tokens_per_frame: int,
        context: str,
    ) -> Tensor:
        self._enter(context, hidden_states)
        if not self._computing:
            return self._residuals.add(context, hidden_states)

        self._residuals.drop(context)  # it has served: leave its memory to the blocks
        observed = context == self._observed_context
        if observed:
            strides = self._policy.motion_strides(self.trace.records[-1].index)
            self._observer.begin_forward(tokens_per_frame, strides)
        self._measuring = observed
        try:
            output = run_blocks(hidden_states)
        finally:
            self._measuring = False
        if output is hidden_states:
            raise RuntimeError(
                "run_blocks returned its own input, so its residual is lost; "
                "let the blocks write 'x = x + residual' instead of changing x in place"
            )
        if observed:
            self._observer.end_forward()
            self._awaits_readout = True
        self._residuals.store(context, output - hidden_states)
        return output

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        residual = compute()
        if self._measuring:
            self._observer.observe(site, residual)
        return residual

    def settle(self) -> None:
        """Tell the policy and the trace what the last computed step measured, waiting for the device once."""
        if not self._awaits_readout:
            return
        self._awaits_readout = False
        record = self.trace.records[-1]
        report = self._policy.observe(record.index, self._observer.read_out())
        self.trace.records[-1] = replace(record, **asdict(report))

    def finish(self) -> None:
        """Complete the trace of a run that ended without an error."""
        self._check_stack_was_called()
        self.settle()
        if self._clock is not None:
            self._clock.mark()
            records = zip(self.trace.records, self._clock.intervals(), strict=True)
            self.trace.records[:] = [replace(record, milliseconds=ms) for record, ms in records]

    def free(self) -> None:
        """Let go of all tensors."""
        self._residuals.free()
        self._observer.free()

    @property
    def nbytes(self) -> int:
        return self._residuals.nbytes + self._observer.nbytes

    def _enter(self, context: str, hidden_states: Tensor) -> None:
        """Note one call of the stack; the first of a step starts its time."""
        if not self.trace.records:
            raise RuntimeError("controller.stack came before controller.begin_step; begin step 0 first")
        if context in self._contexts:
            raise RuntimeError(
                f"controller.stack was called twice in step {self.trace.records[-1].index} for context "
                f"'{context}'; call begin_step before every step, and give each guidance branch a context"
            )
        if not self._contexts:
            self._clock = self._clock or StepClock(hidden_states.device)
            self._clock.mark()
        self._contexts.add(context)
        self._observed_context = self._observed_context or context

    def _check_stack_was_called(self) -> None:
        if self.trace.records and not self._contexts:
            raise RuntimeError(
                f"the model did not call controller.stack in step {self.trace.records[-1].index}; "
                "pass the controller to its forward"
            )
