"""Follows the calls of a pipeline's transformers: where runs begin and end, and which step is going on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adacache.controller import StepController
from adacache.trace import Trace


@dataclass(frozen=True)
class RunStart:
    """What is known of a run at its first call.

    Attributes:
        timesteps: one for each step.
        latents: shape of a video's latents as the transformer gets them, without the batch.
    """

    timesteps: list[float]
    latents: tuple[int, ...]


class Runs:
    """The runs of one pipeline, one after the other, each with a controller of its own.

    A step is a call of the transformer, or one call for each guidance context. Their number is the scheduler's, which
    counts what the solver really asks for. A run begins with the first call after the scheduler was set anew, after
    the end of the run before, or with latents of another shape; so a run that broke off leaves nothing to the next.

    Args:
        schedule: gives the scheduler's timesteps of the coming run, a tensor (calls,), made anew for every run.
        make_controller: is called when a run begins.
        finished: is called when it came to its end.
    """

    def __init__(
        self,
        schedule: Callable[[], Tensor],
        make_controller: Callable[[RunStart], StepController],
        finished: Callable[[StepController], object],
    ) -> None:
        self._schedule = schedule
        self._make_controller = make_controller
        self._finished = finished
        self._controller: StepController | None = None
        self._open: ExitStack | None = None  # of the run that goes on
        self._timesteps: Tensor | None = None  # as the scheduler holds them
        self._times: list[float] = []
        self._shape: tuple[int, ...] = ()
        self._step = -1
        self._contexts: list[str] = []  # that were called in this step
        self._contexts_before: list[str] = []  # in the step before
        self._model: object = None  # that was called last
        self.num_runs = 0

    def enter(self, model: object, context: str, latents: Tensor) -> StepController:
        """The controller for a call of `model`, in a new step or a new run if it is time.

        `latents` are what it is called with, (B, ...).

        Raises: ValueError when the config does not fit the run.
        """
        if not self._goes_on(context, latents):
            self._begin(model, latents)
        if context in self._contexts or self._step < 0:
            self._step += 1
            self._contexts_before, self._contexts = self._contexts, []
            self._controller.begin_step(self._step, self._times[self._step], restart=model is not self._model)
        elif model is not self._model:
            raise RuntimeError(f"two transformers were called in step {self._step}; only one can be cached at a time")
        self._contexts.append(context)
        self._model = model
        return self._controller

    def leave(self) -> None:
        """A call is done; the last one of a run ends it, so that nothing is held while the latents are decoded."""
        if self._step == len(self._times) - 1 > 0 and set(self._contexts) == set(self._contexts_before):
            self.finish()

    def finish(self) -> None:
        """The pipeline is done: end the run, if it goes on."""
        if self._open is None:
            return
        if self._step < len(self._times) - 1:
            self.abort()
            return
        opened, self._open = self._open, None
        opened.close()
        self._finished(self._controller)

    def abort(self) -> None:
        """Let go of a run that is not over."""
        if self._open is None:
            return
        opened, self._open = self._open, None
        opened.__exit__(_RunEnded, _RunEnded(), None)

    @property
    def traces(self) -> list[Trace]:
        """One per video of the current or last run.

        Raises: RuntimeError before the first call.
        """
        if self._controller is None:
            raise RuntimeError("there is no trace yet: the transformer was not called since apply_adacache")
        return self._controller.traces

    def _goes_on(self, context: str, latents: Tensor) -> bool:
        """Whether a call belongs to the run that is open."""
        if self._open is None or self._schedule() is not self._timesteps or latents.shape != self._shape:
            return False
        return context not in self._contexts or self._step + 1 < len(self._times)

    def _begin(self, model: object, latents: Tensor) -> None:
        self.abort()
        timesteps = self._schedule()
        times = [float(time) for time in timesteps.tolist()]
        controller = self._make_controller(RunStart(times, tuple(latents.shape[1:])))
        opened = ExitStack()
        opened.enter_context(controller.run(len(times), num_samples(latents)))
        self._controller, self._open = controller, opened
        self._timesteps, self._times, self._shape = timesteps, times, latents.shape
        self._step, self._contexts, self._contexts_before, self._model = -1, [], [], model
        self.num_runs += 1


class _RunEnded(Exception):
    """Closes a run that did not come to its end."""


def num_samples(latents: Tensor) -> int:
    """Of a batch (B, ...) the number of videos: guidance repeats them all, so that its halves are equal.

    The device is waited for once. Two videos from the same noise without guidance are taken for one, which makes them
    share a schedule.
    """
    count = len(latents)
    parts = next((n for n in (2, 3) if count % n == 0 and _is_repeated(latents, count // n)), 1)
    return count // parts


def _is_repeated(latents: Tensor, period: int) -> bool:
    return bool(torch.equal(latents[period:], latents[:-period]))


def timesteps_of(owner: Any) -> Tensor:
    """What a scheduler, or a pipeline's scheduler, will step through in the coming run.

    Raises: RuntimeError when they were not set.
    """
    timesteps = getattr(owner, "timesteps", None)
    if not isinstance(timesteps, Tensor) or not len(timesteps):
        raise RuntimeError(
            f"{type(owner).__name__} has no timesteps; call its set_timesteps before the transformer, and give "
            "apply_adacache the scheduler that the loop really uses"
        )
    return timesteps
