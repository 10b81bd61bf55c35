"""Sampling loops with given outputs in place of the model's, to see where a loop takes the latents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adacache.controller import RunObserver
from adacache.policies.base import Policy, PolicyConfig
from adacache.reuse.base import Reuse, Step


@dataclass(frozen=True)
class Replay(Policy, PolicyConfig):
    """Replaces the model's output by `outputs`, each from its step on; only at the step `live` is it computed.

    It is its own config, since it changes nothing. `outputs` are (halves, B, C, ...), as `LoopWatcher` returns them.
    """

    reuse: ClassVar[str] = "adacache.calibration.replay:ReplayReuse"

    outputs: Mapping[int, Tensor]
    live: int | None = None

    def make_policy(self, num_steps: int) -> Replay:
        """Return the policy of a run."""
        return self

    def should_compute(self, step_index: int) -> bool:
        """Whether the model's own output is used."""
        return step_index == self.live

    def rows_at(self, step_index: int) -> Tensor:
        """Return the replacement of the model's outputs at this step, the rows (halves * B, C, ...) of all contexts."""
        steps = sorted(self.outputs)
        return self.outputs[steps[bisect_right(steps, step_index) - 1]].flatten(0, 1)


class ReplayReuse(Reuse):
    """Returns what the policy holds for a whole batch; the blocks are skipped."""

    name = "replayed outputs"
    by_video = False
    takes_output = True
    policy: Replay

    def begin_step(self, step: Step) -> None:
        """Begin with the first context's rows."""
        self._num_given = 0

    def output(self, step: Step, context: str, latents: Tensor, output: Tensor, observed: bool) -> Tensor:
        """Return `output` at the live step, else the replayed one in its dtype, even if the step had to be computed."""
        if self.policy.should_compute(step.index):
            return output
        first, self._num_given = self._num_given, self._num_given + len(output)
        return self.policy.rows_at(step.index)[first : self._num_given].to(output)


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
    """

    def __init__(self, begins: Sequence[int] = (), calls: Sequence[int] = (), stop: int | None = None) -> None:
        self._begins, self._calls, self._stop = frozenset(begins), frozenset(calls), stop
        self.latents: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self._outputs: dict[int, list[Tensor]] = {}  # of the contexts
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
            self._outputs.setdefault(self._step, []).append(output.detach().clone())

    def outputs(self, step_index: int) -> Tensor:
        """Return what the model returned in one step in all contexts, (halves, B, C, ...)."""
        return torch.cat(self._outputs[step_index]).unflatten(0, (-1, self._num_samples))
