"""The schedules of a run: what is decided, measured, reused and recorded for the videos of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, FrameSet
from adacache.meters import BranchMeter, SignalMeter, read_changes
from adacache.policies.base import Decision, Policy, Report, SignalChange
from adacache.policies.registry import load
from adacache.reuse.base import Reuse, Step
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord, Trace


class Track:
    """One schedule: of one video of a run, or of all of them where they share one; of one of its modalities.

    Every tensor it is given holds the rows of its videos only. The policy decides, meters measure what it goes by, and
    the reuse keeps what computed steps leave. Where other frames take part than in the step before, the step is
    computed, and what steps before it left behind is not reused: a residual of the time when a frame was held knows
    nothing of the noise it joined with, and frames look at each other. Of a `shard`, the tensors are the part of the
    videos that it holds, while frames are told, and decisions made, for the whole of them.
    """

    def __init__(self, policy: Policy, reuse: Reuse, num_steps: int, store: TensorStore, shard: Shard = WHOLE) -> None:
        self.trace = Trace(num_steps, metadata={"bridge": reuse.bridge.to_dict()})
        if reuse.name != "stack":
            self.trace.metadata["reuses"] = reuse.name
        self.policy, self.reuse = policy, reuse
        self.step = Step(-1, None, ALL_FRAMES, joined=False)
        self._branches = BranchMeter(policy.observed_sites, store, shard) if policy.observed_sites else None
        self._signal = None
        if policy.signal is not None:
            self._signal = SignalMeter(policy.reference, store, shard, is_whole=policy.signal == "latents")
        self._awaits_report = False

    def begin_step(self, step_index: int, timestep: float | None, frames: FrameSet, restart: bool = False) -> None:
        """A new step begins, the one before is settled; with `restart` it is computed by another model than before."""
        joined = self.step.index >= 0 and (restart or frames != self.step.frames)
        if joined:
            self.reuse.forget(None if restart else frames.differs(self.step.frames))
            if self._signal is not None:
                self._signal.free()  # the policy is told of no change, as at the first step
            if self._branches is not None and restart:
                self._branches.free()
        self.step = Step(step_index, timestep, frames, joined)

    def compared(self, signal: Tensor) -> Tensor:
        """What the policy compares of the signal, for the rows of all tracks alike."""
        name = self.policy.signal_filter
        return signal if name is None else load(name)(signal.detach(), self.step.timestep)

    def measure_signal(self, signal: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compare the signal of the observed context with its reference, on the device.

        Raises:
            ValueError: frames are held and the signal's do not stand in dimension 1.
        """
        if self.step.frames.videos is not None:
            frames = len(self.step.frames.videos[0][self._signal.frames])
            if signal.shape[1] % frames if frames else signal.shape[1]:
                raise ValueError(
                    f"the signal '{self.policy.signal}' has shape {tuple(signal.shape)}, but dimension 1 must hold the "
                    f"{frames} frames, or their tokens frame by frame, where some frames are held"
                )
        return self._signal.measure(signal, self.step.frames)

    def ask(self, change: SignalChange | None = None) -> Decision:
        """What the policy says of the step that has begun, by the `change` of its signal if it goes by one."""
        if self._signal is None:
            return Decision(self.policy.should_compute(self.step.index))
        return self.policy.decide(self.step.index, change)

    def decided(self, decision: Decision, signal: Tensor | None = None) -> None:
        """It is decided about the step that has begun; `signal` is what the policy went by."""
        self.step = step = self.step._replace(computed=decision.compute or self.step.joined)
        self.trace.records.append(
            StepRecord(step.index, step.timestep, step.computed, decision.distance, decision.value, joined=step.joined)
        )
        self.reuse.begin_step(step)
        if signal is not None:
            self._signal.settle(signal, step.computed)

    def begin_blocks(self, context: str, tokens_per_frame: int, observed: bool, moves: bool) -> None:
        """Get ready for the computed blocks of one context; only an `observed` one is measured, and its motion only if
        it `moves`.
        """
        self.reuse.begin_blocks(context)
        if observed and self._branches is not None:
            strides = self.policy.motion_strides(self.step.index) if moves else ()
            self._branches.begin_forward(tokens_per_frame, strides, self.step.frames)

    def measure_branch(self, site: Site, residual: Tensor) -> None:
        """A branch of the observed context was computed; it is measured if the policy wants to know."""
        if self._branches is not None:
            self._branches.observe(site, residual)

    def end_blocks(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """The blocks of one context are done.

        Raises:
            RuntimeError: an observed site did not come by.
        """
        if observed and self._branches is not None:
            self._branches.end_forward()
        if observed and self._signal is None:
            self._awaits_report = True
        self.reuse.keep(self.step, context, hidden_states, output)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether a branch of the block is measured or reused."""
        sites = [site for group in self.policy.observed_sites for site in group]
        return self.reuse.takes_branches or any(site.stream == stream and site.block == block for site in sites)

    def settle(self) -> None:
        """Tell the policy and the trace what the last computed step measured, waiting for the device once."""
        if self.reuse.measures:
            self.reuse.settle(self.trace)
        if self._awaits_report:
            self._awaits_report = False
            record = self.trace.records[-1]
            measured = [] if self._branches is None else self._branches.read_out()
            self.trace.records[-1] = replace(record, **asdict(self.policy.observe(record.index, measured)))

    def finish(self) -> None:
        """Complete the trace but for the times."""
        self.settle()
        self.reuse.finish(self.trace)

    def free(self) -> None:
        """Let go of all tensors."""
        for holder in (self._branches, self._signal, self.reuse):
            if holder is not None:
                holder.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now: what is measured against, and what is reused."""
        holders = (self._branches, self._signal, self.reuse)
        return [kept for holder in holders if holder is not None for kept in holder.kept]


class Tracks:
    """All schedules of a run: one for each video of a batch, or one for all.

    Row r of a batch belongs to video r % num_videos, and with it the rows of its guidance branches; where there is one
    track, all rows are its own. Where videos have several modalities, such as picture and sound, each is measured by
    itself, and a step is reused where all of them allow it: their tracks have the same steps.

    Attributes:
        first: one of the tracks; their policies are of one kind.
        num_modalities: of each video.

    Args:
        tracks: a sequence for each modality.
    """

    def __init__(self, *tracks: Sequence[Track]) -> None:
        self._tracks = tracks
        self.first, self.num_modalities = tracks[0][0], len(tracks)
        self._running: str | None = None  # context whose blocks run
        self._measured: Sequence[Track] = ()  # only while the blocks of the observed context run

    def begin_step(self, step_index: int, timestep: float | None, frames: FrameSet, restart: bool) -> None:
        """A new step begins for every video; waits for the measurements of the computed step before it."""
        self.settle()
        for video, tracks in enumerate(zip(*self._tracks, strict=True)):
            own_frames = frames if len(self._tracks[0]) == 1 else frames.of_video(video)
            for track in tracks:
                track.begin_step(step_index, timestep, own_frames, restart)
            if self.first.policy.signal is None:
                _decide(tracks, [track.ask() for track in tracks])

    def decide(
        self, context: str, signals: Mapping[str, Callable[[], Any]], num_rows: int, observed: bool, modality: int
    ) -> None:
        """Measure the signal that the policies go by, if they do, and let them decide about the step.

        Raises:
            RuntimeError: that signal is missing, or one of a modality.
            ValueError: it has other rows than the hidden states.
        """
        name, is_taken = self.first.policy.signal, self.first.reuse.takes_signal
        if name is None or not (observed or is_taken):
            return
        if name not in signals:
            offered = ", ".join(f"'{known}'" for known in signals) or "none"
            raise RuntimeError(f"this policy goes by the signal '{name}', but the model offers {offered}")
        signal = signals[name]()
        own = signal if isinstance(signal, tuple) else (signal,)
        if len(own) != len(self._tracks):
            raise RuntimeError(f"the signal '{name}' is of {len(own)} modalities, but the run has {len(self._tracks)}")
        for tensor in own:
            if len(tensor) != num_rows:
                raise ValueError(f"the signal '{name}' has {len(tensor)} rows, the hidden states have {num_rows}")
        if observed and modality == 0:
            parts = [self._split(self.first.compared(tensor), number) for number, tensor in enumerate(own)]
            measured = [track.measure_signal(part) for pairs in parts for track, part in pairs]
            changes = iter(read_changes(measured))
            asked = [[track.ask(next(changes)) for track, _ in pairs] for pairs in parts]
            for pairs, decisions in zip(zip(*parts, strict=True), zip(*asked, strict=True), strict=True):
                _decide([track for track, _ in pairs], decisions, [part for _, part in pairs])
        if is_taken:
            for track, part in self._split(own[modality], modality):
                track.reuse.take_signal(context, part)

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        tokens_per_frame: int,
        context: str,
        observed: bool,
        modality: int,
    ) -> Tensor:
        """What the blocks make of `hidden_states`, or what stands in for it at a reused step."""
        tracks = self._tracks[modality]
        due = [index for index, track in enumerate(tracks) if track.step.computed]

        def compute(hidden_states: Tensor, *rows: Tensor) -> Tensor:
            chosen = [tracks[index] for index in due]
            for track in chosen:
                track.begin_blocks(context, tokens_per_frame, observed, moves=modality == 0)
            return self._compute(chosen, hidden_states, run_blocks, rows, context, observed)

        if len(due) == len(tracks):
            return compute(hidden_states)
        parts = [
            None if track.step.computed else track.reuse.add(track.step, context, part)
            for track, part in self._split(hidden_states, modality)
        ]
        if due:
            rows = self._rows_of(due, hidden_states)
            computed = compute(hidden_states[rows], rows)
            for position, index in enumerate(due):
                parts[index] = computed[position :: len(due)]
        return _interleave(parts)

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """What a branch adds to the hidden states."""
        reuse = self.first.reuse
        if reuse.takes_branches and self._running is not None:
            return reuse.branch(self._running, site, compute)
        residual = compute()
        for position, track in enumerate(self._measured):
            own = residual if len(self._measured) == 1 else residual[position :: len(self._measured)]
            track.measure_branch(site, own)
        return residual

    def output(self, latents: Tensor, output: Tensor, context: str, observed: bool, modality: int) -> Tensor:
        """What the model returns: its `output`, or what stands in for it at a reused step."""
        pairs = zip(self._split(latents, modality), self._split(output, modality), strict=True)
        return _interleave(
            [track.reuse.output(track.step, context, x, out, observed) for (track, x), (_, out) in pairs]
        )

    def held_output(self, context: str, modality: int) -> Tensor | None:
        """What stands in for the model's output where no video needs a call of the model; None where one does."""
        tracks = self._tracks[modality]
        if any(track.step.computed for track in tracks):
            return None
        return _interleave([track.reuse.held(context) for track in tracks])

    def settle(self) -> None:
        """Complete what can be told of the last step; a video's trace is that of its first modality, with what was
        measured of the one that reuses the least.
        """
        for track in self._all:
            track.settle()
        for first, *others in zip(*self._tracks, strict=True):
            if others and first.trace.records:
                records = [track.trace.records[-1] for track in (first, *others)]
                strictest = max(records, key=lambda record: (-(record.rate or 0), record.value or 0.0))
                measured = {field.name: getattr(strictest, field.name) for field in fields(Report)}
                first.trace.records[-1] = replace(records[0], **measured)

    def finish(self, milliseconds: Sequence[float]) -> None:
        """Complete the traces; those whose blocks ran share the time of a step, or all where none did."""
        for track in self._all:
            track.finish()
        traces = [track.trace for track in self._tracks[0]]
        for index, spent in enumerate(milliseconds):
            computed = sum(trace.records[index].computed for trace in traces)
            for trace in traces:
                record = trace.records[index]
                share = spent / (computed or len(traces)) if record.computed or not computed else 0.0
                trace.records[index] = replace(record, milliseconds=share)

    def free(self) -> None:
        """Let go of all tensors."""
        for track in self._all:
            track.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """What is held now."""
        return [kept for track in self._all for kept in track.kept]

    @property
    def _all(self) -> list[Track]:
        return [track for tracks in self._tracks for track in tracks]

    def _compute(
        self,
        tracks: Sequence[Track],
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        rows: tuple[Tensor, ...],
        context: str,
        observed: bool,
    ) -> Tensor:
        """Run the blocks for the tracks that are due; `hidden_states` are their rows."""
        self._running, self._measured = context, tracks if observed else ()
        try:
            output = run_blocks(hidden_states, *rows)
        finally:
            self._running, self._measured = None, ()
        if output is hidden_states:
            raise RuntimeError(
                "run_blocks returned its own input, so its residual is lost; "
                "let the blocks write 'x = x + residual' instead of changing x in place"
            )
        for position, track in enumerate(tracks):
            own = slice(position, None, len(tracks))
            track.end_blocks(context, hidden_states[own], output[own], observed)
        return output

    def _split(self, tensor: Tensor, modality: int) -> list[tuple[Track, Tensor]]:
        """Every track of a modality with its rows."""
        tracks = self._tracks[modality]
        count = len(tracks)
        return [(track, tensor if count == 1 else tensor[index::count]) for index, track in enumerate(tracks)]

    def _rows_of(self, due: list[int], hidden_states: Tensor) -> Tensor:
        """Indices of the rows of the tracks that are due, guidance branch by guidance branch."""
        branches = range(0, len(hidden_states), len(self._tracks[0]))
        rows = [first + index for first in branches for index in due]
        # Made on the device at once, the host would wait for it to arrive, and so for all that was queued before.
        return torch.tensor(rows).to(hidden_states.device, non_blocking=True)


def _interleave(parts: list[Tensor]) -> Tensor:
    """One batch of what belongs to its videos: row r of it is row r // num_videos of video r % num_videos."""
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)


def _decide(tracks: Sequence[Track], decisions: Sequence[Decision], signals: Sequence[Tensor | None] = ()) -> None:
    """A step of one video is computed where any of its modalities, of which each has a track, asks for it."""
    joint = max(decisions, key=lambda decision: (decision.compute, decision.value or 0.0))
    for track, own, signal in zip_longest(tracks, decisions, signals):
        if joint.compute and not own.compute:
            track.ask()  # what it added up for a reused step starts anew
        track.decided(joint, signal)
