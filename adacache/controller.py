"""The step controller: a policy's decisions, applied to the blocks of a model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, read_frames
from adacache.policies.base import PolicyConfig
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.trace import Trace
from adacache.track import Call, Tracks
from adacache.validation import check_count


class RunObserver:
    """Observes a run; subclasses override the methods that they need.

    Observers must not change the tensors they are given. A method that waits for the device makes the run wait, too.
    """

    def begin_run(self, controller: StepController, num_steps: int, num_samples: int) -> None:
        """A run of `num_samples` videos has begun."""

    def begin_step(self, step_index: int) -> None:
        """A step begins and is not decided yet; the controller still holds the tensors of the step before."""

    def begin_latents(self, step_index: int, latents: Tensor) -> None:
        """A step begins with `latents` (B, ...); called only if the loop passes them to the controller."""

    def end_stack(
        self, hidden_states: Tensor, output: Tensor, context: str, signals: Mapping[str, Callable[[], Tensor]]
    ) -> None:
        """The stack turned `hidden_states` into `output`, computed or reused; the rest is as passed to `stack`."""

    def end_output(self, latents: Tensor, output: Tensor, context: str) -> None:
        """The model returns `output` for `latents`, computed or reused."""

    def end_run(self) -> None:
        """The run ends, with or without an error; the controller still holds its tensors."""


class StepController:
    """Decides at every sampling step whether a model's blocks are computed or their last residual is reused.

    The sampling loop opens a `run` and calls `begin_step`; the model passes its blocks to `stack` and their residual
    branches to `branch`; for policies that reuse the whole model, it also passes its result to `output`. All state
    belongs to the run, none to the model: an interrupted run leaves nothing behind, and controllers do not affect each
    other. One controller serves one run at a time.

    Where several processes share a video, each has its own controller with its own `shard`, and all of them make the
    same calls. They all reach the same decisions, which are those of a single process. `stack`, `branch` and `output`
    take the part of a tensor that the process holds.

    `observers` are called in the given order.

    Raises:
        TypeError: `config` is not a policy's config.
    """

    def __init__(self, config: PolicyConfig, shard: Shard = WHOLE, observers: Sequence[RunObserver] = ()) -> None:
        if not isinstance(config, PolicyConfig):
            raise TypeError(
                f"StepController needs a policy config such as AdaCacheConfig(), got {config!r}; to run without a "
                "cache, pass no controller"
            )
        self.config = config
        self._shard = shard
        self._observers = tuple(observers)
        self._run: _Run | None = None
        self._traces: list[Trace] = []

    @contextmanager
    def run(self, num_steps: int, num_samples: int = 1, num_modalities: int = 1) -> Iterator[StepController]:
        """Open a run of `num_steps` sampling steps; its tensors are freed when it ends, for whatever reason.

        `num_samples` is the number of videos in a batch: row r of the hidden states belongs to video r % num_samples,
        as in a batch of all conditional rows followed by all unconditional ones. Each video has its own schedule,
        unless the config says schedule="batch" or the policy reuses single branches. Opening another run ends one that
        is still open. A run may stop before its last step.

        `num_modalities` is the number of tensors of hidden states that the blocks denoise together: two for a picture
        with its sound. Each modality has its own policies and residuals, and a step is computed if any of them asks for
        it.

        Raises:
            ValueError: the config does not fit `num_steps`.
        """
        check_count("num_steps", num_steps)
        check_count("num_samples", num_samples)
        check_count("num_modalities", num_modalities)
        num_steps, num_samples = int(num_steps), int(num_samples)  # traces hold plain numbers, not those of NumPy
        tracks = Tracks(self.config, num_steps, num_samples, num_modalities, self._shard)
        run = _Run(tracks, num_steps, num_samples, self._shard)
        if self._run is not None:
            self._run.tracks.free()
        self._run, self._traces = run, tracks.traces * (num_samples // len(tracks.traces))
        try:
            for observer in self._observers:
                observer.begin_run(self, num_steps, num_samples)
            yield self
            # Skipped after an error: reading from a device that just failed would hide the cause.
            run.finish()
        finally:
            for observer in self._observers:
                observer.end_run()
            run.tracks.free()
            if self._run is run:
                self._run = None

    def begin_step(
        self,
        step_index: int,
        timestep: float | None = None,
        generated_frames: Sequence[Sequence[bool]] | None = None,
        restart: bool = False,
        latents: Tensor | None = None,
    ) -> None:
        """Begin one sampling step; steps come in the order 0, 1, ..., num_steps - 1.

        `timestep` is the scheduler's value, for the trace and for policies that need it. Pass a plain number: reading
        one from a GPU tensor would make every step wait for the device.

        `generated_frames` holds a bool for each frame of each video of the batch: True if the frame takes part in this
        step, False if it is held as it was given; None means that all take part. Pass plain bools, for the same reason.
        Only frames that take part are measured, since held ones hardly change. If other frames take part than in the
        step before, as when the edit of a frame begins at a later time, the step is computed for that video and nothing
        from earlier steps is reused. With one schedule for a batch (schedule="batch"), it is computed for all videos.

        `restart` says that another model runs from this step on, such as a low-noise model after a high-noise one: the
        step is computed, and nothing from earlier steps is reused or compared with.

        `latents` (B, ...) are those that the step begins with; they are passed to the observers and do not affect the
        decision.

        Raises:
            ValueError: a step is skipped or repeated, a `timestep` that the policy needs is missing, or
                `generated_frames` are malformed or given in a run of several modalities.
            RuntimeError: outside of a run, or the model did not make the calls that the step before needed, such as one
                in the context that is measured.
        """
        run = self._active("begin_step")
        run.check_step(step_index, timestep)
        step_index = int(step_index)
        frames = ALL_FRAMES
        if generated_frames is not None:
            if run.tracks.num_modalities > 1:
                raise ValueError("frames cannot be held in a run of several modalities; leave generated_frames out")
            frames = read_frames(generated_frames, run.num_samples, run.num_frames)
            run.num_frames = len(generated_frames[0])
        for observer in self._observers:
            observer.begin_step(step_index)
            if latents is not None:
                observer.begin_latents(step_index, latents)
        run.step = step_index
        run.contexts.clear()
        run.outputs.clear()
        run.tracks.begin_step(step_index, None if timestep is None else float(timestep), frames, restart)

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        tokens_per_frame: int,
        context: str = "default",
        signals: Mapping[str, Callable[[], Any]] | None = None,
        modality: int = 0,
    ) -> Tensor:
        """Run all blocks of one forward pass, or add a reused residual (output - input) instead.

        `hidden_states` is (B, N, C), with `tokens_per_frame` tokens for each frame, frame by frame. The result has the
        same shape; at a computed step it is exactly `run_blocks(hidden_states)`. If only some videos of a batch are
        due, their rows are gathered and `run_blocks(hidden_states[rows], rows)` is called, with the indices of the rows
        as a tensor. Call `stack` once per step, or once per step and `context` where guidance branches run one after
        the other: each context has its own residuals, the decision is shared, and only the context that came first in
        the run is measured.

        `signals` are functions that compute what a policy may need before it decides, with the rows of the hidden
        states: "latents", the model's input with all frames, including those of other processes; "modulated_input", the
        first block's normalized and modulated input; "first_block", the residual of the first block, which `run_blocks`
        then need not compute again. Only the policy's own signal is computed, at most once and before `run_blocks`. It
        is kept by reference: do not change it in place afterwards. Signals have their frames in order in dimension 1,
        as (B, T, ...) or as tokens frame by frame (B, N, ...), so that held frames can be left out; transpose latents
        (B, C, T, H, W) first.

        In a run of several modalities, call `stack` for each `modality`, from 0 on, with contexts of its own, and let
        each signal be a tuple with one tensor per modality. Blocks that compute all modalities at once run in the first
        call; in the other calls `run_blocks` only passes the branches to `branch` and returns the output. Motion is
        measured in modality 0 only.

        Raises:
            RuntimeError: outside of a run, called twice in a step for one context, or without the policy's signal.
            ValueError: the shape changed during the run, or the rows or frames do not belong to the run's videos.
        """
        run, signals = self._active("stack", context), signals or {}
        call = run.enter_stack(context, modality, hidden_states, tokens_per_frame)
        run.tracks.decide(call, signals, len(hidden_states))
        run.contexts.add(context)
        output = run.tracks.stack(call, hidden_states, run_blocks, tokens_per_frame)
        for observer in self._observers:
            observer.end_stack(hidden_states, output, context, signals)
        return output

    def output(self, latents: Tensor, output: Tensor, context: str = "default", modality: int = 0) -> Tensor:
        """Return the model's `output`, or its replacement at a step that reuses the whole model.

        `latents` (B, C, T, ...) are the model's input and `output` (B, C or more, T, ...) is what its last layer made
        of the result of `stack`. Only policies that reuse the output need this call; for others it changes nothing.

        Raises:
            RuntimeError: outside of a run, twice in a step, or before `stack`.
            ValueError: the two do not fit.
        """
        run = self._active("output")
        call = run.enter_output(context, modality, latents, output)
        if run.tracks.first.reuse.takes_output:
            output = run.tracks.output(call, latents, output)
        for observer in self._observers:
            observer.end_output(latents, output, context)
        return output

    def held_output(self, context: str = "default", modality: int = 0) -> Tensor | None:
        """Return the model's output if this step needs no call of the model, or None if the model must be called.

        The caller of the model may ask before each call. The output is the one that `output` returned at the step
        before; returning it completes the step in this context. Observers are not called.

        Raises:
            RuntimeError: outside of a run, before the first step, or the context was already called in this step.
        """
        run = self._active("held_output", context)
        if not run.tracks.first.reuse.holds_output:
            return None
        output = run.tracks.held_output(context, modality)
        if output is not None:
            run.skip_model(context)
        return output

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Return the residual that a branch adds to the hidden states: `compute()`, or an earlier one that is reused.

        It is (B, N, C), tokens frame by frame, or (B, T, S, C) with a dimension for the frames, and is measured if the
        policy observes the site. It is kept by reference: do not change it in place afterwards.

        Raises:
            RuntimeError: outside of a run.
        """
        return self._active("branch").tracks.branch(site, compute)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether this run's policy measures or reuses a branch of the block.

        A block that is not watched need not call `branch`, and can run as one piece.

        Raises:
            RuntimeError: outside of a run.
        """
        takes_branches = self._active("watches").tracks.first.reuse.takes_branches
        return takes_branches or any((site.stream, site.block) == (stream, block) for site in self.observed_sites)

    @property
    def traces(self) -> list[Trace]:
        """One trace per video of the open run so far, or of the last run; videos that share a schedule share the trace.

        Reading them right after a computed step waits for the device, which the next `begin_step` would do otherwise.

        Raises:
            RuntimeError: before the first run.
        """
        if not self._traces:
            raise RuntimeError("there is no trace before the first run; open one with controller.run(num_steps)")
        if self._run is not None:
            self._run.tracks.settle()
        return self._traces

    @property
    def step_counts(self) -> list[tuple[int, int]]:
        """Computed and reused steps of every video so far; unlike `traces`, this never waits for the device."""
        return [(trace.num_computed, trace.num_reused) for trace in self._traces]

    @property
    def trace(self) -> Trace:
        """The trace of the first video, which stands for all of them unless each has its own schedule.

        Raises:
            RuntimeError: before the first run.
        """
        return self.traces[0]

    @property
    def observed_sites(self) -> tuple[Site, ...]:
        """The branches that the run's policy measures, each once; empty for policies that measure none.

        If a model's blocks cannot call `branch` themselves, these are all that has to be watched from outside.

        Raises:
            RuntimeError: outside of a run.
        """
        groups = self._active("observed_sites").tracks.first.policy.observed_sites
        return tuple(dict.fromkeys(site for group in groups for site in group))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held now; 0 outside of a run.

        In units of hidden states, the bridge "hold" keeps one and the others two ("taylor": order + 1); a metric block
        adds one ("ca-mlp": two), and so does a signal of that size. Each further metric block adds the same again, and
        each further context what the bridge keeps. Policies that reuse single branches keep one for each, those that
        reuse the output none. `adacache.memory` estimates the bytes beforehand.
        """
        return sum(self.memory.values())

    @property
    def memory(self) -> dict[str, int]:
        """The bytes of `nbytes` by device, such as {"cuda:0": 1024}; devices that hold nothing are left out.

        With cache_device="cpu" this includes the copies on their way back to the device for a reused step.
        """
        memory: Counter[str] = Counter()
        for kept in self._run.tracks.kept if self._run is not None else ():
            memory.update(kept.memory)
        return dict(memory)

    def _active(self, method: str, context: str | None = None) -> _Run:
        if self._run is None:
            raise RuntimeError(
                f"controller.{method} was called outside of a run; wrap the sampling loop in "
                "'with controller.run(num_steps):'"
            )
        run = self._run
        if context is not None and run.step < 0:
            raise RuntimeError(f"controller.{method} came before controller.begin_step; begin step 0 first")
        if context in run.contexts:
            raise RuntimeError(
                f"controller.{method} was called twice in step {run.step} for context "
                f"'{context}'; call begin_step before every step, and give each guidance branch a context"
            )
        return run


@dataclass
class _Run:
    """The state of a controller's open run.

    Attributes:
        num_frames: frames of every video, known once the caller has passed `generated_frames`.
        clock: made with the first hidden states, whose device it needs.
        observed: for each modality, the context that came first in the run, the only one that is measured.
        contexts: those that called `stack`, or skipped the model, in this step.
        outputs: those that called `output`, or skipped the model, in this step.
    """

    tracks: Tracks
    num_steps: int
    num_samples: int
    shard: Shard
    step: int = -1
    num_frames: int | None = None
    clock: StepClock | None = None
    observed: dict[int, str] = field(default_factory=dict)
    contexts: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)

    def check_step(self, step_index: int, timestep: float | None) -> None:
        """Refuse, with a ValueError, any step but the next one, or a missing timestep that the policy needs."""
        expected = self.step + 1
        if step_index != expected or expected >= self.num_steps:
            wanted = f"step {expected}" if expected < self.num_steps else "the end of the run"
            raise ValueError(
                f"begin_step got step {step_index}, expected {wanted}; "
                f"call it once for each of 0..{self.num_steps - 1}, in this order"
            )
        self.check_model_called()
        unmeasured = set(self.observed.values()) - self.contexts
        if unmeasured and self.tracks.first.policy.observed_sites and self.tracks.computes:
            raise RuntimeError(
                f"step {self.step} was computed without context '{min(unmeasured)}', which this policy measures; "
                "let a context come first in the run that takes part in every step"
            )
        if timestep is None and self.tracks.first.policy.needs_timestep:
            raise ValueError("this policy needs the flow's time; pass it: controller.begin_step(index, timestep)")

    def check_model_called(self) -> None:
        """Refuse, with a RuntimeError, to go on if the model omitted a call that the last step needed."""
        if self.step < 0:
            return
        if not self.contexts:
            raise RuntimeError(
                f"the model did not call controller.stack in step {self.step}; pass the controller to its forward"
            )
        missing = set(range(self.tracks.num_modalities)) - set(self.observed)
        if missing:
            raise RuntimeError(
                f"the model did not call controller.stack for modality {min(missing)} in step {self.step}; call it for "
                "each modality, or open the run with fewer: controller.run(num_steps, num_modalities=...)"
            )
        if self.tracks.first.reuse.takes_output and self.outputs != self.contexts:
            raise RuntimeError(
                f"the model did not call controller.output in step {self.step}; a policy that reuses the model's "
                "output needs it"
            )

    def skip_model(self, context: str) -> None:
        """Note that a context completed this step without a call of the model."""
        self.clock.mark_step(self.step)
        self.contexts.add(context)
        self.outputs.add(context)

    def enter_stack(self, context: str, modality: int, hidden_states: Tensor, tokens_per_frame: int) -> Call:
        """Check and note one call of `stack`; the first one of a step starts the step's time.

        Raises:
            RuntimeError: the policy follows a signal, and the step begins with another context than the first step did.
            ValueError: the rows, frames or the modality do not belong to the run's videos.
        """
        if len(hidden_states) % self.num_samples:
            raise ValueError(
                f"hidden states of {len(hidden_states)} rows do not belong to {self.num_samples} samples; "
                "open the run with the number of videos in a batch, controller.run(num_steps, num_samples)"
            )
        if modality not in range(self.tracks.num_modalities):
            raise ValueError(
                f"controller.stack got modality {modality}, but the run has {self.tracks.num_modalities}, counted from "
                "0; open it with controller.run(num_steps, num_modalities=...)"
            )
        if not self.contexts:
            self.clock = self.clock or StepClock(hidden_states.device)
            self.clock.mark_step(self.step)
            observed = self.observed.get(0, context)
            if self.tracks.first.policy.signal is not None and context != observed:
                raise RuntimeError(
                    f"context '{context}' came before '{observed}' in step {self.step}; a policy that follows a signal "
                    "needs them in the same order at every step"
                )
        num_tokens = hidden_states.shape[1]
        if self.num_frames is not None and num_tokens != self.num_held_frames * tokens_per_frame:
            raise ValueError(
                f"hidden states of {num_tokens} tokens, {tokens_per_frame} per frame, do not match the "
                f"{self.num_held_frames} frames that generated_frames lists; give begin_step one bool per frame"
            )
        return Call(context, modality, observed=self.observed.setdefault(modality, context) == context)

    def enter_output(self, context: str, modality: int, latents: Tensor, output: Tensor) -> Call:
        """Check and note one call of `output`.

        Raises:
            RuntimeError: `stack` was not called before, or `output` was called twice in the step.
            ValueError: the two tensors do not fit each other or the run.
        """
        if context not in self.contexts:
            raise RuntimeError(
                f"controller.output was called for '{context}' before controller.stack in step {self.step}"
            )
        if context in self.outputs:
            raise RuntimeError(f"controller.output was called twice in step {self.step} for context '{context}'")
        if self.tracks.first.reuse.takes_output:
            if len(latents) != len(output) or len(latents) % self.num_samples or latents.shape[1] > output.shape[1]:
                raise ValueError(
                    f"controller.output got latents of shape {tuple(latents.shape)} and an output of shape "
                    f"{tuple(output.shape)} for {self.num_samples} samples; both need the same rows, and the output at "
                    "least as many channels"
                )
            if self.num_frames is not None and latents.shape[2] != self.num_held_frames:
                raise ValueError(
                    f"controller.output got latents of shape {tuple(latents.shape)}, but dimension 2 must hold the "
                    f"{self.num_held_frames} frames that begin_step was given"
                )
        self.outputs.add(context)
        return Call(context, modality, observed=self.observed[modality] == context)

    def finish(self) -> None:
        """Complete the traces of a run that ended without an error.

        Raises:
            RuntimeError: the model omitted a call that the last step needed.
        """
        self.check_model_called()
        self.tracks.settle()
        if self.clock is not None:
            self.clock.mark()
        self.tracks.finish(self.clock.intervals() if self.clock is not None else ())

    @property
    def num_held_frames(self) -> int:
        """Number of each video's frames that this process holds; known once `num_frames` is."""
        return len(range(self.num_frames)[self.shard.frames])


class StepClock:
    """Marks moments on the device's own timeline and gives the milliseconds between them afterwards.

    On CUDA a moment is an event in the stream, since the host runs ahead of the device; elsewhere it is read from the
    host's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event | float] = []

    def mark_step(self, step_index: int) -> None:
        """Mark the beginning of a step, unless it is already marked."""
        if len(self._marks) == step_index:
            self.mark()

    def mark(self) -> None:
        """Mark this moment; never waits."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Milliseconds from each mark to the next; waits until the device has passed the last one."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self._device.type == "cuda":
            self._marks[-1].synchronize()
            return [start.elapsed_time(end) for start, end in pairs]
        return [1000 * (end - start) for start, end in pairs]
