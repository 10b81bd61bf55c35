"""Decides which run, step and guidance half a call of a transformer belongs to, and how many videos it is for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import RLock, Thread, current_thread
from typing import Any

import torch
from torch import Tensor, nn

from adacache.controller import StepController
from adacache.integrations.diffusers.pipeline import DenoisingLoop
from adacache.trace import Trace

logger = logging.getLogger(__name__)

FEW_STEPS = 10  # runs of fewer steps are those of distilled models, whose steps change too much to be left out


@dataclass(frozen=True)
class RunStart:
    """What is known of a run at its first call.

    Attributes:
        timesteps: one for each step that will be taken, fewer than the scheduler's if strength is below 1.
        latents: shape of a video's latents as the transformer gets them, without the batch.
        scheduler: name of its class.
        guidance_scale: None if the loop has none or does not expose it.
        further_guidance: see `DenoisingLoop.further_guidance`; None if the loop has none or does not expose it.
    """

    timesteps: list[float]
    latents: tuple[int, ...]
    scheduler: str
    guidance_scale: float | None
    further_guidance: dict[str, Any] | None


@dataclass(frozen=True)
class Call:
    """One call of a transformer.

    Attributes:
        latents: (B, ...), as the transformer gets them.
        timestep: of any shape; tokens that are given rather than denoised have a smaller one than the others.
        text: (B, tokens, width), None without text.
        context: name that the pipeline gave this call, None if it gave none.
        step_index, num_steps: those of the pipeline's loop, None if diffusers does not pass them.
        batches_guidance: whether pipelines of this family that name no context have both guidance halves in a batch.
        has_own_time: whether `timestep` is not the scheduler's time, which is then read from the pipeline.
        num_modalities: how many modalities are denoised, two with a sound.
    """

    model: nn.Module
    latents: Tensor
    timestep: Tensor
    text: Tensor | None
    context: str | None = None
    step_index: int | None = None
    num_steps: int | None = None
    batches_guidance: bool = False
    has_own_time: bool = False
    num_modalities: int = 1


@dataclass(frozen=True)
class GuidanceHalf:
    """What distinguishes the calls of one step, such as those with and without the prompt.

    Attributes:
        version: grows where the text's tensor is changed in place; None without a text, or where PyTorch does not tell.
    """

    context: str | None
    text: Tensor | None
    version: int | None

    @classmethod
    def of(cls, call: Call) -> GuidanceHalf:
        """Return the half that `call` is for."""
        return cls(call.context, call.text, _version(call.text))

    def fits(self, call: Call) -> bool:
        """Whether `call` is for this half; comparing texts in different tensors waits for the device."""
        if self.context != call.context:
            return False
        if self.text is call.text:
            return self.version == _version(call.text)
        if self.text is None or call.text is None:
            return False
        return self.text.shape == call.text.shape and torch.equal(self.text, call.text)


def _version(text: Tensor | None) -> int | None:
    return None if text is None or text.is_inference() else text._version


@dataclass
class _Run:
    """The open run.

    Attributes:
        schedule: the scheduler's own tensor; the next run has another one.
        first, place: positions of the run's first step and of the current one in the schedule.
        halves: the halves that have a residual, by the number that is in the controller's context.
        called: numbers of halves that were called in this step.
        strangers: halves that were called in this step and have no residual.
        calls_before: number of calls in the step before.
        is_fresh: whether this step is computed for all videos, whatever the policy says.
        is_doubtful: whether the run began where a call was repeated in the first step of the one before. It is then not
            known which of a step's calls the residuals are of, so the next step is computed.
    """

    controller: StepController
    opened: ExitStack
    schedule: Tensor
    times: list[float]
    first: int
    num_videos: int
    thread: Thread
    place: int = -1
    model: nn.Module | None = None
    shape: torch.Size | None = None
    halves: dict[int, GuidanceHalf] = field(default_factory=dict)
    called: list[int] = field(default_factory=list)
    strangers: list[GuidanceHalf] = field(default_factory=list)
    calls_before: int | None = None
    is_fresh: bool = True
    is_doubtful: bool = False

    @property
    def num_calls(self) -> int:
        return len(self.called) + len(self.strangers)

    def was_called(self, call: Call) -> bool:
        """Whether the half of `call` was called in this step."""
        return any(half.fits(call) for half in [*(self.halves[number] for number in self.called), *self.strangers])


class Runs:
    """The runs of one pipeline, one after the other, each with a controller of its own.

    A step is a time of the scheduler. All calls at that time belong to it, each to a guidance half, which is identified
    by its cache context and its text. If a time occurs several times in the schedule, a new step begins once all calls
    of the step have been made and one is repeated. A run begins where the scheduler was set anew or time goes back; its
    steps are the schedule from the time of its first call on. A call that fits nowhere is computed without the cache,
    and so is the rest of its run; one warning says so.

    Attributes:
        lock: held during a call, while the blocks of the only transformer are replaced.
        was_called: whether there was a call, of a run or not.

    Args:
        loop: the loop that calls the transformers.
        make_controller: called when a run begins.
        finished: called when a run comes to its end.
    """

    def __init__(
        self,
        loop: DenoisingLoop,
        make_controller: Callable[[RunStart], StepController],
        finished: Callable[[StepController], object],
    ) -> None:
        self.lock = RLock()
        self.was_called = False
        self._loop = loop
        self._make_controller = make_controller
        self._finished = finished
        self._run: _Run | None = None
        self._controller: StepController | None = None  # of the current or last run
        self._ended: tuple[Tensor, int] | None = None  # schedule and last place of a run that is over
        self._strayed: Tensor | None = None  # schedule of a run that is computed without the cache
        self._schedule: Tensor | None = None  # the one that `_times` were read from
        self._times: dict[torch.dtype, list[float]] = {}  # rounded to each dtype that calls have
        self._told: set[str] = set()

    def enter(self, call: Call) -> tuple[StepController, str] | None:
        """Return the controller for a call and the name of its guidance half; None if the call is not cached.

        Raises:
            ValueError: the config does not fit the run.
            RuntimeError: the scheduler has no timesteps, or two transformers are called in one step.
        """
        self.was_called = True
        schedule = self._loop.timesteps()
        if self._run is not None and self._run.schedule is not schedule:
            self.abort()
        if self._run is not None and self._run.thread is not current_thread():
            if self._run.thread.is_alive():
                self._warn_once(
                    "two threads call this %s at once; the calls of the second one are computed without the cache. "
                    "Give each thread its own transformer, or let them run one after the other",
                    type(call.model).__name__,
                )
                return None
            self.abort()
        if schedule is self._strayed:
            return None
        self._strayed = None
        places = self._places(call, schedule)
        if self._run is None:
            return self._begin(call, schedule, places)
        return self._go_on(call, schedule, places)

    def leave(self) -> None:
        """End a call; the last call of a run ends the run, so that nothing is held while the latents are decoded."""
        run = self._run
        if run is not None and run.place == len(run.times) - 1 and run.num_calls == run.calls_before:
            self.finish()

    def finish(self) -> None:
        """End this thread's open run, since the pipeline is done; drop it if it is before its last step."""
        run = self._run
        if run is None or run.thread is not current_thread():
            return
        if run.place < len(run.times) - 1:
            self.abort()
            return
        self._run = None
        self._ended = run.schedule, run.place
        run.opened.close()
        self._finished(run.controller)

    def abort(self) -> None:
        """Drop the open run, if there is one."""
        run, self._run = self._run, None
        if run is not None:
            run.opened.__exit__(_RunEnded, _RunEnded(), None)

    @property
    def traces(self) -> list[Trace]:
        """One trace for each video of the current or last run.

        Raises:
            RuntimeError: before the first call.
        """
        if self._controller is None:
            raise RuntimeError("there is no trace yet: the transformer has not been called since apply_adacache")
        return self._controller.traces

    def close(self) -> None:
        """Forget the loop and what it gave, so that a handle that is kept for its traces keeps no model."""
        self._loop = self._make_controller = self._ended = self._strayed = self._schedule = None

    def _places(self, call: Call, schedule: Tensor) -> list[int]:
        """Return the places in the schedule where a call may be; its time may have been rounded to another dtype."""
        if self._schedule is not schedule:
            self._schedule, self._times = schedule, {}
        told = self._loop.current_time if call.has_own_time else None
        dtype = call.timestep.dtype if told is None else schedule.dtype
        if dtype not in self._times:
            self._times[dtype] = schedule.to(dtype).tolist()
        time = call.timestep.max().item() if told is None else told
        places = [place for place, known in enumerate(self._times[dtype]) if known == time]
        if call.step_index is None or call.num_steps is None:
            return places
        return [place for place in places if place == len(schedule) - call.num_steps + call.step_index]

    def _begin(
        self, call: Call, schedule: Tensor, places: list[int], first: int | None = None
    ) -> tuple[StepController, str] | None:
        """Begin a run with `call`, at the place `first` of the schedule if that is known."""
        if self._ended is not None and self._ended[0] is schedule and self._ended[1] in places:
            return None  # one more guidance half in the last step of a run that seemed to be over
        if first is None and places:
            first = self._loop.first_place(places, len(schedule))
        if first is None:
            self._warn_of_stray(call)
            return None
        times = [float(time) for time in schedule.tolist()]
        is_own = self._loop.is_at(schedule[first])
        guidance = (self._loop.guidance_scale, self._loop.further_guidance) if is_own else (None, None)
        start = RunStart(times[first:], tuple(call.latents.shape[1:]), self._loop.scheduler_name, *guidance)
        controller = self._make_controller(start)
        if len(schedule) < FEW_STEPS:
            self._warn_once(
                "a run of %d steps leaves little to reuse: below %d, caching gives what fewer steps give",
                len(schedule),
                FEW_STEPS,
            )
        num_videos = self._num_videos(call, is_own)
        opened = ExitStack()
        opened.enter_context(controller.run(len(times) - first, num_videos, call.num_modalities))
        self._controller, self._ended = controller, None
        if times[0] < times[-1]:
            times = [1000 - time for time in times]  # inverted, as Mochi's are: 0 stands for noise
        self._run = _Run(controller, opened, schedule, times, first, num_videos, current_thread())
        return self._begin_step(call, first)

    def _go_on(self, call: Call, schedule: Tensor, places: list[int]) -> tuple[StepController, str] | None:
        """Find the step of `call` in the open run, or begin another run with it."""
        run, following = self._run, self._run.place + 1
        anew = run.first in places and not self._loop.is_pipeline
        if run.place in places:
            again = run.was_called(call)
            due = following in places and run.num_calls >= (run.calls_before or 0)
            if not again or not (due or (anew and run.place == run.first)):
                return self._join_step(call)
        if following in places:
            if len(call.latents) % run.num_videos == 0:
                return self._begin_step(call, following)
            self.abort()
            return self._begin(call, schedule, places, following)
        self.abort()
        if anew:
            entered = self._begin(call, schedule, places, run.first)
            if self._run is not None:
                self._run.is_doubtful = run.place == run.first
            return entered
        self._strayed = schedule
        self._warn_of_stray(call)
        return None

    def _begin_step(self, call: Call, place: int) -> tuple[StepController, str] | None:
        """Begin the step at `place`; it is computed if the halves, the model or the batch have changed.

        A half that was not called in the step before is forgotten: its residual is older than those of the others.
        """
        run = self._run
        halves = {number: run.halves[number] for number in run.called}
        same = call.model is run.model and call.latents.shape == run.shape and not run.strangers
        is_known = same and not run.is_doubtful and 0 in halves and halves[0].fits(call)
        restart, run.is_doubtful = run.place >= 0 and not is_known, False
        run.is_fresh = restart or run.place < 0
        if run.place >= 0:
            run.calls_before = run.num_calls
        run.halves, run.called, run.strangers = {} if run.is_fresh else halves, [], []
        run.model, run.shape, run.place = call.model, call.latents.shape, place
        run.controller.begin_step(place - run.first, run.times[place], restart=restart, latents=call.latents)
        return self._join_step(call)

    def _join_step(self, call: Call) -> tuple[StepController, str] | None:
        """Find the guidance half of a call in this step.

        A half without a residual is computed without the cache; the next step is then computed for all halves, and
        their residuals are kept.
        """
        run = self._run
        if call.model is not run.model:
            raise RuntimeError(
                f"two transformers were called in step {run.place - run.first}; only one can be cached at a time"
            )
        fitting = [number for number, half in run.halves.items() if number not in run.called and half.fits(call)]
        if not fitting:
            half = GuidanceHalf.of(call)
            if not run.is_fresh:
                run.strangers.append(half)
                return None
            fitting = [len(run.halves)]
            run.halves[fitting[0]] = half
        run.called.append(fitting[0])
        return run.controller, f"guidance half {fitting[0]}"

    def _num_videos(self, call: Call, is_own: bool) -> int:
        """Return the number of videos in the batch of `call`; 1 if nothing tells, so that all share one schedule."""
        rows = len(call.latents)
        halves = self._loop.halves_per_call(call.context, call.batches_guidance, is_own) if rows > 1 else 1
        if halves is not None and rows % halves == 0:
            return rows // halves
        self._warn_once(
            "nothing says how many videos the %d rows of a batch are, so they share one schedule; call the "
            "transformer within transformer.cache_context('cond_uncond') if they hold both guidance halves, or within "
            "cache_context('cond') and cache_context('uncond') if each half has its own call",
            rows,
        )
        return 1

    def _warn_of_stray(self, call: Call) -> None:
        self._warn_once(
            "%s was called at time %g, where the %s that AdaCache follows has no step due; until that scheduler is "
            "set again, all calls are computed without the cache. Apply AdaCache to the pipeline that makes these "
            "calls, or with its scheduler",
            type(call.model).__name__,
            call.timestep.max().item(),
            self._loop.scheduler_name,
        )

    def _warn_once(self, sentence: str, *values: object) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            logger.warning("AdaCache: " + sentence, *values)


class _RunEnded(Exception):
    """Closes a run that was dropped before its end."""
