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
from adacache.options import ReuseOptions
from adacache.policies.base import PolicyConfig
from adacache.policies.registry import load
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import TensorStore
from adacache.trace import Trace
from adacache.track import Track, Tracks
from adacache.validation import check_count


class RunObserver:
    """Looks on while a controller works; whoever wants to see something overrides the method that shows it.

    What it is given it must not change. Where a method waits for the device, the run does, too.
    """

    def begin_run(self, controller: StepController, num_steps: int, num_samples: int) -> None:
        """A run of `num_samples` videos is open."""

    def begin_step(self, step_index: int) -> None:
        """A step is about to be decided about; the controller still holds what the step before left."""

    def begin_latents(self, step_index: int, latents: Tensor) -> None:
        """The latents (B, ...) that a step begins with; only of loops that tell them to the controller."""

    def end_stack(
        self, hidden_states: Tensor, output: Tensor, context: str, signals: Mapping[str, Callable[[], Tensor]]
    ) -> None:
        """The blocks made `output` of `hidden_states`, or a reused step did; the rest as given to `stack`."""

    def end_output(self, latents: Tensor, output: Tensor, context: str) -> None:
        """The model returns `output` for `latents`."""

    def end_run(self) -> None:
        """The run ends, whatever ends it; the controller still holds its tensors."""


class StepController:
    """Decides at every sampling step whether a model's blocks are computed or their last residual is reused.

    The sampling loop opens a `run` and calls `begin_step`; the model hands its blocks to `stack` and their
    residual branches to `branch`; for policies that reuse the whole model, it also hands its result to `output`. All
    state belongs to the run, none to the model, so a run that was interrupted leaves nothing behind and controllers
    do not touch each other. One controller serves one run at a time.

    Where several processes share a video, each has a controller with its own `shard`, and all of them make the same
    calls: all decide alike, and as one process would. `stack`, `branch` and `output` are given what the process holds.

    `observers` are shown what goes on, in the order in which they are given.

    Raises:
        TypeError: `config` is not a policy's config.
    """

    def __init__(self, config: PolicyConfig, shard: Shard = WHOLE, observers: Sequence[RunObserver] = ()) -> None:
        if not hasattr(config, "make_policy"):
            raise TypeError(
                f"StepController needs a policy config such as AdaCacheConfig(), got {config!r}; "
                "for no caching pass no controller"
            )
        self.config = config
        self._shard = shard
        self._observers = tuple(observers)
        self._run: _Run | None = None
        self._traces: list[Trace] = []

    @contextmanager
    def run(self, num_steps: int, num_samples: int = 1, num_modalities: int = 1) -> Iterator[StepController]:
        """Open one run of `num_steps` sampling steps; its tensors are freed at its end, whatever ends it.

        `num_samples` is the number of videos in a batch: row r of the hidden states belongs to video
        r % num_samples, as in a batch of all conditional rows followed by all unconditional ones. Unless the config
        says schedule="batch", each video has a schedule of its own. Opening another run ends one that is still open.
        It is fine to stop before the last step.

        `num_modalities` is how many tensors of hidden states the blocks work on that are all denoised: two where a
        picture's come with a sound's. Each has a policy and residuals of its own, and a step is computed where one of
        these policies asks for it.

        Raises:
            ValueError: the config does not fit `num_steps`.
        """
        check_count("num_steps", num_steps)
        check_count("num_samples", num_samples)
        check_count("num_modalities", num_modalities)
        options = self.config if isinstance(self.config, ReuseOptions) else ReuseOptions()
        policy = self.config.make_policy(num_steps)
        reuse = load(policy.reuse)
        count = num_samples if options.schedule == "sample" and reuse.by_video else 1
        policies = [policy, *(self.config.make_policy(num_steps) for _ in range(count * num_modalities - 1))]
        store = TensorStore(options.cache_device, options.cache_dtype)
        tracks = [
            Track(policy, reuse(policy, options.bridge, store, self._shard), num_steps, store, self._shard)
            for policy in policies
        ]
        of_modalities = [tracks[first::num_modalities] for first in range(num_modalities)]
        run = _Run(Tracks(*of_modalities), num_steps, num_samples, self._shard)
        if self._run is not None:
            self._run.tracks.free()
        self._run, self._traces = run, [track.trace for track in of_modalities[0]] * (num_samples // count)
        for observer in self._observers:
            observer.begin_run(self, num_steps, num_samples)
        try:
            yield self
            # Not after an error: reading from a device that just failed would hide what happened.
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
        """Decide about one step; steps come as 0, 1, ..., num_steps - 1.

        `timestep` is the scheduler's value, for the trace and for policies of branches. Give a plain number: to read
        one from a GPU tensor would make every step wait for the device.

        `generated_frames` says for each video of the batch, and each of its frames, whether it takes part in this
        step, True, or is held as it was given, False; None where all take part. Give plain bools, for the same reason.
        What is measured is measured over frames that take part: held ones hardly change. Where other frames take part
        than in the step before, as one that is edited from a later time on, the step is computed for that video and
        nothing from before is reused. With one schedule for a batch (schedule="batch") it is computed for all videos.

        `restart` says that another model runs from this step on, such as one for little noise after one for much: the
        step is computed, and nothing from before is reused or measured against.

        `latents` (B, ...) are what the step begins with, for observers; they decide nothing.

        Raises:
            ValueError: a step is left out or repeated, or `generated_frames` are not as they should be.
            RuntimeError: outside of a run, or when the model did not call `stack` in the step before.
        """
        run = self._active("begin_step")
        run.check_step(step_index, timestep)
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
        """Run all blocks of one forward pass, or add the residual (output - input) that the bridge gives.

        `hidden_states` is (B, N, C), tokens frame by frame with `tokens_per_frame` of them each; so is the
        result, which at a computed step is exactly `run_blocks(hidden_states)`. Where only some videos of a batch are
        due, their rows are gathered and `run_blocks(hidden_states[rows], rows)` is called, with the indices of the
        rows as a tensor. Call it once per step, or once per step and `context` where guidance branches run one after
        the other: each context has its own residuals, the decision is shared, and only the context that came first
        in the run is measured.

        `signals` are what a policy may want to see before it decides, with the rows of the hidden states:
        "latents", the model's input with all frames, also those of other processes; "modulated_input", the first
        block's normalized and modulated input; "first_block", the residual of the first block, which `run_blocks` then
        need not compute again. Only the one that the policy goes by is called, at most once and before `run_blocks`. It
        is kept by reference: do not change it in place afterwards. All have their frames in order in dimension 1, as
        (B, T, ...) or as tokens frame by frame (B, N, ...), so that frames that are held can be left out; latents
        (B, C, T, H, W) are given transposed.

        Of a run with several modalities, call it for each of them, from 0 on, with contexts of their own, and give
        signals as tuples of all. Blocks that make all at once run in the first call; what `run_blocks` of another does
        is to show its branches and hand out its output. Motion is that of the first.

        Raises:
            RuntimeError: outside of a run, called twice, or without the policy's signal.
            ValueError: the shape changed during the run, or the rows or frames do not belong to the run's videos.
        """
        run, signals = self._active("stack", context), signals or {}
        run.enter_stack(context, hidden_states, tokens_per_frame)
        observed = run.observed.setdefault(modality, context) == context
        run.tracks.decide(context, signals, len(hidden_states), observed, modality)
        run.contexts.add(context)
        output = run.tracks.stack(hidden_states, run_blocks, tokens_per_frame, context, observed, modality)
        for observer in self._observers:
            observer.end_stack(hidden_states, output, context, signals)
        return output

    def output(self, latents: Tensor, output: Tensor, context: str = "default", modality: int = 0) -> Tensor:
        """What the model returns: `output`, or at a step that reuses the whole model what replaces it.

        `latents` (B, C, T, ...) are the model's input and `output` (B, C or more, T, ...) what its last layer made of
        the result of `stack`. Only policies that reuse the output need this call; for others it changes nothing.

        Raises:
            RuntimeError: outside of a run, twice in a step, or before `stack`.
            ValueError: the two do not fit.
        """
        run = self._active("output")
        run.enter_output(context, latents, output)
        if run.tracks.first.reuse.takes_output:
            output = run.tracks.output(latents, output, context, run.observed[modality] == context, modality)
        for observer in self._observers:
            observer.end_output(latents, output, context)
        return output

    def held_output(self, context: str = "default", modality: int = 0) -> Tensor | None:
        """The model's output at a step for which the model need not be called; None where it must be.

        Whoever calls the model may ask before. What is given is what `output` gave at the step before; with it, the
        step is over in this context. Observers are not told.

        Raises:
            RuntimeError: outside of a run, before the first step, or when the context was called in this step.
        """
        run = self._active("held_output", context)
        if not run.tracks.first.reuse.holds_output:
            return None
        output = run.tracks.held_output(context, modality)
        if output is not None:
            run.skip_model(context)
        return output

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, the residual that a branch adds to the hidden states; measured if asked for.

        It is (B, N, C), tokens frame by frame, or (B, T, S, C) with the frames apart.

        The residual is kept by reference: do not change it in place afterwards.

        Raises:
            RuntimeError: outside of a run.
        """
        return self._active("branch").tracks.branch(site, compute)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether this run's policy measures or reuses a branch of the block.

        A block that it does not watch need not call `branch`, and can run as one piece.

        Raises:
            RuntimeError: outside of a run.
        """
        return self._active("watches").tracks.first.watches(stream, block)

    @property
    def traces(self) -> list[Trace]:
        """One trace per video of the current run so far, or of the last run; with one schedule all are the same.

        Reading them right after a computed step waits for the device, as the next `begin_step` otherwise would.

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
        """Computed and reused steps so far of every video; never waits for the device, as `traces` may."""
        return [(trace.num_computed, trace.num_reused) for trace in self._traces]

    @property
    def trace(self) -> Trace:
        """The trace of the first video, which is the only one unless a batch has a schedule per video.

        Raises:
            RuntimeError: before the first run.
        """
        return self.traces[0]

    @property
    def observed_sites(self) -> tuple[Site, ...]:
        """The branches that the run's policy wants to see, each once; empty for policies that measure none.

        For models whose blocks cannot call `branch` by themselves: only these need to be watched from outside.

        Raises:
            RuntimeError: outside of a run.
        """
        groups = self._active("observed_sites").tracks.first.policy.observed_sites
        return tuple(dict.fromkeys(site for group in groups for site in group))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held now, 0 outside of a run.

        Counted in hidden states: one for the bridge "hold", two for the others (order + 1 for "taylor"); one more
        for a metric block ("ca-mlp": two) or for a signal. Every further metric block adds to that, and every further
        context the bridge's. Policies that reuse single branches hold one for each, those that reuse the output none.
        `adacache.memory` says it beforehand.
        """
        return sum(self.memory.values())

    @property
    def memory(self) -> dict[str, int]:
        """Where `nbytes` are: bytes by device, such as {"cuda:0": 1024}; devices that hold nothing are left out.

        With cache_device="cpu" the copies that a reused step has on their way to its device are counted there, too.
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
    """What a controller knows of the run that is open.

    Attributes:
        num_frames: of every video, once the caller said which are generated.
        clock: needs a device, known from the first hidden states.
        observed: the context of each modality that came first in the run, the only one that is measured.
        contexts: that called the stack in this step.
        outputs: contexts that gave their output in this step.
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
        """Refuse, with a ValueError, another step than the next, or one without the timestep that the policy needs."""
        expected = self.step + 1
        if step_index != expected or expected >= self.num_steps:
            wanted = f"step {expected}" if expected < self.num_steps else "the end of the run"
            raise ValueError(
                f"begin_step got step {step_index}, expected {wanted}; "
                f"call it once for each of 0..{self.num_steps - 1}, in this order"
            )
        self.check_model_called()
        if timestep is None and self.tracks.first.policy.needs_timestep:
            raise ValueError("this policy goes by the flow's time; pass it: controller.begin_step(index, timestep)")

    def check_model_called(self) -> None:
        """Refuse, with a RuntimeError, to go on when the model left something out in the last step."""
        if self.step < 0:
            return
        if not self.contexts:
            raise RuntimeError(
                f"the model did not call controller.stack in step {self.step}; pass the controller to its forward"
            )
        if self.tracks.first.reuse.takes_output and self.outputs != self.contexts:
            raise RuntimeError(
                f"the model did not call controller.output in step {self.step}; a policy that reuses the model's "
                "output needs it"
            )

    def skip_model(self, context: str) -> None:
        """Note that the model was not called, and need not be."""
        self.clock.mark_step(self.step)
        self.contexts.add(context)
        self.outputs.add(context)

    def enter_stack(self, context: str, hidden_states: Tensor, tokens_per_frame: int) -> None:
        """Note one call of the stack; the first of a step starts its time.

        Raises:
            RuntimeError: the call is not due.
            ValueError: the rows or frames are not the run's.
        """
        if len(hidden_states) % self.num_samples:
            raise ValueError(
                f"hidden states of {len(hidden_states)} rows do not belong to {self.num_samples} samples; "
                "open the run with the number of videos in a batch, controller.run(num_steps, num_samples)"
            )
        if not self.contexts:
            self.clock = self.clock or StepClock(hidden_states.device)
            self.clock.mark_step(self.step)
            observed = self.observed.get(0, context)
            if self.tracks.first.policy.signal is not None and context != observed:
                raise RuntimeError(
                    f"context '{context}' came before '{observed}' in step {self.step}; a policy that "
                    "goes by a signal needs them in the same order at every step"
                )
        num_tokens = hidden_states.shape[1]
        if self.num_frames is not None and num_tokens != self.num_held_frames * tokens_per_frame:
            raise ValueError(
                f"hidden states of {num_tokens} tokens, {tokens_per_frame} per frame, are not of the "
                f"{self.num_held_frames} frames that generated_frames lists; give begin_step one bool per frame"
            )

    def enter_output(self, context: str, latents: Tensor, output: Tensor) -> None:
        """Note that the model gave its output.

        Raises:
            RuntimeError: the call is not due.
            ValueError: the two do not fit each other or the run.
        """
        if context not in self.contexts:
            raise RuntimeError(
                f"controller.output was called for '{context}' without a call of controller.stack before it in step "
                f"{self.step}"
            )
        if context in self.outputs:
            raise RuntimeError(f"controller.output was called twice in step {self.step} for context '{context}'")
        if self.tracks.first.reuse.takes_output:
            if len(latents) != len(output) or len(latents) % self.num_samples or latents.shape[1] > output.shape[1]:
                raise ValueError(
                    f"controller.output got latents of shape {tuple(latents.shape)} and an output of shape "
                    f"{tuple(output.shape)} for {self.num_samples} samples; it needs the same rows in both, and at "
                    "least as many channels in the output"
                )
            if self.num_frames is not None and latents.shape[2] != self.num_held_frames:
                raise ValueError(
                    f"controller.output got latents of shape {tuple(latents.shape)}, but dimension 2 must hold the "
                    f"{self.num_held_frames} frames of which begin_step was told"
                )
        self.outputs.add(context)

    def finish(self) -> None:
        """Complete the traces of a run that ended without an error.

        Raises:
            RuntimeError: the model left something out in the last step.
        """
        self.check_model_called()
        self.tracks.settle()
        if self.clock is not None:
            self.clock.mark()
        self.tracks.finish(self.clock.intervals() if self.clock is not None else ())

    @property
    def num_held_frames(self) -> int:
        """Frames of each video that this process holds, where the caller said which are generated."""
        return len(range(self.num_frames)[self.shard.frames])


class StepClock:
    """Marks moments on the device's own timeline and gives the milliseconds between them afterwards.

    On CUDA a moment is an event in the stream, since the host runs ahead of the device; elsewhere it is the
    host's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event | float] = []

    def mark_step(self, step_index: int) -> None:
        """Mark the beginning of a step, if it is not yet marked."""
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
