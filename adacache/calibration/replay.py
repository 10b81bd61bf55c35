"""Sampling loops with given outputs in place of the model's, to see where a loop takes the latents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adacache.controller import RunObserver
from adacache.policies.base import Policy
from adacache.reuse.base import Reuse, Step

Outputs = Mapping[str, Tensor]  # of the model in one step, by context: (B, C, ...)


@dataclass(frozen=True)
class ReplayConfig:
    """Replaces the model's output by `outputs`, each from its step on; only at the step `live` is it computed."""

    outputs: Mapping[int, Outputs]
    live: int | None = None

    def validate(self, num_steps: int, num_blocks: int | None = None) -> None:
        """Accept any run: outputs fit the one they were made in."""

    def make_policy(self, num_steps: int) -> ReplayPolicy:
        """Return a policy for one run."""
        return ReplayPolicy(self)


class ReplayPolicy(Policy):
    """The policy of a `ReplayConfig`."""

    reuse: ClassVar[str] = "adacache.calibration.replay:ReplayReuse"

    def __init__(self, config: ReplayConfig) -> None:
        self._config = config
        self._steps = sorted(config.outputs)

    def should_compute(self, step_index: int) -> bool:
        """Whether the model's own output is used."""
        return step_index == self._config.live

    def outputs(self, step_index: int) -> Outputs:
        """Return the replacements of the model's outputs at this step."""
        return self._config.outputs[self._steps[bisect_right(self._steps, step_index) - 1]]


class ReplayReuse(Reuse):
    """Returns what the policy holds for a whole batch; the blocks are skipped."""

    name = "replayed outputs"
    by_video = False
    takes_output = True
    policy: ReplayPolicy

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """Return `output` at the live step, else the replayed one in its dtype, even if the step had to be computed."""
        return output if self.policy.should_compute(step.index) else self.policy.outputs(step.index)[context].to(output)


class RunStopped(Exception):
    """Ends a run from which nothing more is needed."""


class LoopWatcher(RunObserver):
    """Keeps the latents and model calls of some steps of a loop, and may end the run early.

    Args:
        begins: steps at whose beginning the latents are kept.
        calls: steps whose inputs and outputs of the model are kept.
        stop: step before which the run ends; None lets it go to its end.

    Attributes:
        latents: (B, ...) by step, as they were at its beginning.
        inputs: (B, C, ...) by step, of the context that came first.
        outputs: by step and context.
    """

    def __init__(self, begins: Sequence[int] = (), calls: Sequence[int] = (), stop: int | None = None) -> None:
        self._begins, self._calls, self._stop = frozenset(begins), frozenset(calls), stop
        self.latents: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, dict[str, Tensor]] = {}
        self._step = -1
        self._num_samples = 1

    def begin_run(self, controller: object, num_steps: int, num_samples: int) -> None:
        """Note how many videos there are."""
        self._num_samples = num_samples

    def begin_latents(self, step_index: int, latents: Tensor) -> None:
        """Keep the latents that a step begins with; raises RunStopped if the run is to end here."""
        self._step = step_index
        if step_index in self._begins:
            self.latents[step_index] = latents.detach().clone()
        if step_index == self._stop:
            raise RunStopped

    def end_output(self, latents: Tensor, output: Tensor, context: str) -> None:
        """Keep a call's input and output."""
        if self._step in self._calls:
            self.inputs.setdefault(self._step, latents[: self._num_samples].detach().clone())
            self.outputs.setdefault(self._step, {})[context] = output.detach().clone()
