"""Everything one run knows: made when the run starts, gone when it ends."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adacache.frames import read_frames
from adacache.meters import read_changes
from adacache.shard import WHOLE, Shard
from adacache.sites import Site
from adacache.storage import KeptTensor
from adacache.track import Track
from adacache.tracks import BranchTrack, OutputTrack, SignalTrack


class StepClock:
    """Marks moments on the device's own timeline and gives the milliseconds between them afterwards.

    On CUDA a moment is an event in the stream, since the host runs ahead of the device; elsewhere it is the
    host's clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[torch.cuda.Event | float] = []

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


class RunState:
    """One run of `num_samples` videos on one or as many tracks. `StepController` documents the methods.

    Row r of a batch belongs to sample r % num_samples, and with it the rows of its guidance branches; where there is
    one track, all rows are its own.
    """

    def __init__(self, tracks: Sequence[Track], num_samples: int, shard: Shard = WHOLE) -> None:
        self.tracks = tracks
        self._shard = shard
        self.num_samples = num_samples
        self._num_steps = tracks[0].trace.num_steps
        self._step = -1
        self._num_frames: int | None = None  # of every video, once the caller said which are generated
        self._clock: StepClock | None = None  # needs a device, known from the first hidden states
        self._is_timed = False  # whether this step's time has begun
        self._running: str | None = None  # context whose blocks run
        self._measured: list[Track] = []  # only while the blocks of the observed context run
        self._observed_context: str | None = None
        self._contexts: set[str] = set()  # that called the stack in this step
        self._outputs: set[str] = set()  # contexts that showed their output in this step

    def begin_step(
        self,
        step_index: int,
        timestep: float | None,
        generated_frames: Sequence[Sequence[bool]] | None,
        restart: bool = False,
    ) -> None:
        expected = self._step + 1
        if step_index != expected or expected >= self._num_steps:
            wanted = f"step {expected}" if expected < self._num_steps else "the end of the run"
            raise ValueError(
                f"begin_step got step {step_index}, expected {wanted}; "
                f"call it once for each of 0..{self._num_steps - 1}, in this order"
            )
        self._check_model_called()
        for track in self.tracks:
            track.check_step(timestep)
        frames = read_frames(generated_frames, self.num_samples, self._num_frames)
        if generated_frames is not None:
            self._num_frames = len(generated_frames[0])
        self._contexts.clear()
        self._outputs.clear()
        self._is_timed = False
        self._step = step_index
        timestep = None if timestep is None else float(timestep)
        for index, track in enumerate(self.tracks):
            own_frames = frames if len(self.tracks) == 1 else frames.of_video(index)
            track.begin_step(step_index, timestep, own_frames, restart)

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        tokens_per_frame: int,
        context: str,
        signals: Mapping[str, Callable[[], Tensor]],
    ) -> Tensor:
        self._enter(context, hidden_states)
        self._check_frames(hidden_states.shape[1], tokens_per_frame)
        self._decide(context, signals, len(hidden_states))
        self._contexts.add(context)
        due = [index for index, track in enumerate(self.tracks) if track.computing]
        if len(due) == len(self.tracks):
            return self._compute(due, hidden_states, run_blocks, (), tokens_per_frame, context)
        parts = [
            None if index in due else track.reuse(context, part) for index, track, part in self._split(hidden_states)
        ]
        if due:
            rows = self._rows_of(due, hidden_states)
            computed = self._compute(due, hidden_states[rows], run_blocks, (rows,), tokens_per_frame, context)
            for position, index in enumerate(due):
                parts[index] = computed[position :: len(due)]
        return _interleave(parts)

    def output(self, latents: Tensor, output: Tensor, context: str) -> Tensor:
        if context not in self._contexts:
            raise RuntimeError(
                f"controller.output was called for '{context}' without a call of controller.stack before it in step "
                f"{self._step}"
            )
        if context in self._outputs:
            raise RuntimeError(f"controller.output was called twice in step {self._step} for context '{context}'")
        if not isinstance(self.tracks[0], OutputTrack):
            self._outputs.add(context)
            return output
        if len(latents) != len(output) or len(latents) % self.num_samples or latents.shape[1] > output.shape[1]:
            raise ValueError(
                f"controller.output got latents of shape {tuple(latents.shape)} and an output of shape "
                f"{tuple(output.shape)} for {self.num_samples} samples; it needs the same rows in both, and at least "
                "as many channels in the output"
            )
        held = self._num_held_frames
        if held is not None and latents.shape[2] != held:
            raise ValueError(
                f"controller.output got latents of shape {tuple(latents.shape)}, but dimension 2 must hold the "
                f"{held} frames of which begin_step was told"
            )
        self._outputs.add(context)
        observed = context == self._observed_context
        parts = zip(self._split(latents), self._split(output), strict=True)
        return _interleave([track.replace_output(context, x, out, observed) for (_, track, x), (_, _, out) in parts])

    def _decide(self, context: str, signals: Mapping[str, Callable[[], Tensor]], rows: int) -> None:
        """Measure the signal that the tracks go by, if they do, and let them decide about the step."""
        tracks = [track for track in self.tracks if isinstance(track, SignalTrack)]
        observed = context == self._observed_context
        if not tracks or not (observed or tracks[0].wants_head):
            return
        name = tracks[0].signal
        if name not in signals:
            offered = ", ".join(f"'{known}'" for known in signals) or "none"
            raise RuntimeError(f"this policy goes by the signal '{name}', but the model offers {offered}")
        signal = signals[name]()
        if len(signal) != rows:
            raise ValueError(f"the signal '{name}' has {len(signal)} rows, the hidden states have {rows}")
        parts = [part for _, _, part in self._split(signal)]
        if observed:
            changes = read_changes([track.measure(part) for track, part in zip(tracks, parts, strict=True)])
            for track, part, change in zip(tracks, parts, changes, strict=True):
                track.decide(part, change)
        if tracks[0].wants_head:
            for track, part in zip(tracks, parts, strict=True):
                track.take_head(context, part)

    def _compute(
        self,
        due: list[int],
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        rows: tuple[Tensor, ...],
        tokens_per_frame: int,
        context: str,
    ) -> Tensor:
        """Run the blocks for the tracks that are due; `hidden_states` are their rows."""
        tracks = [self.tracks[index] for index in due]
        observed = context == self._observed_context
        for track in tracks:
            track.begin_forward(context, tokens_per_frame, observed)
        self._running, self._measured = context, tracks if observed else []
        try:
            output = run_blocks(hidden_states, *rows)
        finally:
            self._running, self._measured = None, []
        if output is hidden_states:
            raise RuntimeError(
                "run_blocks returned its own input, so its residual is lost; "
                "let the blocks write 'x = x + residual' instead of changing x in place"
            )
        for position, track in enumerate(tracks):
            own = slice(position, None, len(tracks))
            track.end_forward(context, hidden_states[own], output[own], observed)
        return output

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        shared = self.tracks[0]
        if isinstance(shared, BranchTrack) and self._running is not None:
            return shared.branch(self._running, site, compute)
        residual = compute()
        tracks = self._measured
        for position, track in enumerate(tracks):
            track.observe(site, residual if len(tracks) == 1 else residual[position :: len(tracks)])
        return residual

    def settle(self) -> None:
        for track in self.tracks:
            track.settle()

    def finish(self) -> None:
        """Complete the traces of a run that ended without an error."""
        self._check_model_called()
        self.settle()
        for track in self.tracks:
            track.finish()
        if self._clock is not None:
            self._clock.mark()
            self._share_out(self._clock.intervals())

    def free(self) -> None:
        """Let go of all tensors."""
        for track in self.tracks:
            track.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [kept for track in self.tracks for kept in track.kept]

    def _share_out(self, milliseconds: list[float]) -> None:
        """Write each step's time into the traces: those whose blocks ran share it, or all where none did."""
        traces = [track.trace for track in self.tracks]
        for index, spent in enumerate(milliseconds):
            computed = sum(trace.records[index].computed for trace in traces)
            for trace in traces:
                record = trace.records[index]
                share = spent / (computed or len(traces)) if record.computed or not computed else 0.0
                trace.records[index] = replace(record, milliseconds=share)

    def _split(self, hidden_states: Tensor) -> list[tuple[int, Track, Tensor]]:
        """Every track with its index and its rows."""
        count = len(self.tracks)
        return [
            (index, track, hidden_states if count == 1 else hidden_states[index::count])
            for index, track in enumerate(self.tracks)
        ]

    def _rows_of(self, due: list[int], hidden_states: Tensor) -> Tensor:
        """Indices of the rows of the tracks that are due, guidance branch by guidance branch."""
        branches = range(0, len(hidden_states), len(self.tracks))
        rows = [first + index for first in branches for index in due]
        # Made on the device at once, the host would wait for it to arrive, and so for all that was queued before.
        return torch.tensor(rows).to(hidden_states.device, non_blocking=True)

    def _enter(self, context: str, hidden_states: Tensor) -> None:
        """Note one call of the stack; the first of a step starts its time."""
        if self._step < 0:
            raise RuntimeError("controller.stack came before controller.begin_step; begin step 0 first")
        if context in self._contexts:
            raise RuntimeError(
                f"controller.stack was called twice in step {self._step} for context "
                f"'{context}'; call begin_step before every step, and give each guidance branch a context"
            )
        if len(hidden_states) % self.num_samples:
            raise ValueError(
                f"hidden states of {len(hidden_states)} rows do not belong to {self.num_samples} samples; "
                "open the run with the number of videos in a batch, controller.run(num_steps, num_samples)"
            )
        self._observed_context = self._observed_context or context
        if not self._contexts:
            self._begin_time(hidden_states.device)
            if self.tracks[0].signal is not None and context != self._observed_context:
                raise RuntimeError(
                    f"context '{context}' came before '{self._observed_context}' in step {self._step}; a policy that "
                    "goes by a signal needs them in the same order at every step"
                )

    def _check_frames(self, num_tokens: int, tokens_per_frame: int) -> None:
        held = self._num_held_frames
        if held is not None and num_tokens != held * tokens_per_frame:
            raise ValueError(
                f"hidden states of {num_tokens} tokens, {tokens_per_frame} per frame, are not of the "
                f"{held} frames that generated_frames lists; give begin_step one bool per frame"
            )

    @property
    def _num_held_frames(self) -> int | None:
        """Frames of each video that this process holds, once the caller said which are generated."""
        return None if self._num_frames is None else len(range(self._num_frames)[self._shard.frames])

    def _begin_time(self, device: torch.device) -> None:
        if not self._is_timed:
            self._clock = self._clock or StepClock(device)
            self._clock.mark()
            self._is_timed = True

    def _check_model_called(self) -> None:
        if self._step < 0:
            return
        if not self._contexts:
            raise RuntimeError(
                f"the model did not call controller.stack in step {self._step}; pass the controller to its forward"
            )
        if isinstance(self.tracks[0], OutputTrack) and self._outputs != self._contexts:
            raise RuntimeError(
                f"the model did not call controller.output in step {self._step}; a policy that reuses the model's "
                "output needs it"
            )


def _interleave(parts: list[Tensor]) -> Tensor:
    """One batch of what belongs to its videos: row r of it is row r // num_samples of video r % num_samples."""
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)
