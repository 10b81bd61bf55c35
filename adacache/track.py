"""The schedules of a run: what is decided, measured, reused and recorded for the videos of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, FrameSet
from adacache.meters import BranchMeter, SignalMeter, read_changes
from adacache.policies.base import Decision, Policy, Report
from adacache.policies.registry import load
from adacache.reuse.base import Reuse, Step
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord, Trace


class Track:
    """The schedule of one modality of a video, or of all videos of a run where they share one.

    All tensors hold the rows of these videos only. The policy decides, meters measure what it decides by, and the reuse
    object keeps what reused steps need from computed ones. If other frames take part than in the step before, the step
    is computed and earlier residuals are not reused: a residual from when a frame was held does not account for the
    noise that the frame joins with, and frames attend to each other. With a `shard`, tensors hold this process's part
    of the videos, while frames and decisions are those of whole videos.
    """

    def __init__(self, policy: Policy, reuse: Reuse, num_steps: int, store: TensorStore, shard: Shard = WHOLE) -> None:
        self.trace = Trace(num_steps, metadata={"bridge": reuse.bridge.to_dict()})
        if reuse.name != "stack":
            self.trace.metadata["reuses"] = reuse.name
        self.policy, self.reuse = policy, reuse
        self.step = Step(-1, None, ALL_FRAMES, joined=False)
        self._branches = BranchMeter(policy.observed_sites, store, shard)
        self._signal = None
        if policy.signal is not None:
            self._signal = SignalMeter(policy.reference, store, shard, is_whole=policy.signal == "latents")
        self._holders = [self._branches, reuse, *([self._signal] if self._signal else [])]
        self._awaits_report = False

    def begin_step(self, step_index: int, timestep: float | None, frames: FrameSet, restart: bool) -> Decision | None:
        """Begin a new step, after the one before was settled; with `restart` another model computes it.

        Returns:
            The policy's decision; None if it is made once its signal is known.
        """
        joined = self.step.index >= 0 and (restart or frames != self.step.frames)
        if joined:
            self.reuse.forget(None if restart else frames.differs(self.step.frames))
            if self._signal is not None:
                self._signal.free()  # the policy gets no change, as at the first step
            if restart:
                self._branches.free()
        self.step = Step(step_index, timestep, frames, joined)
        return Decision(self.policy.should_compute(step_index)) if self._signal is None else None

    def compared(self, signal: Tensor) -> Tensor:
        """Return the signal as the policy compares it, filtered if it names a filter, for the rows of all tracks."""
        name = self.policy.signal_filter
        return signal if name is None else load(name)(signal.detach(), self.step.timestep)

    def measure_signal(self, signal: Tensor) -> tuple[Tensor, Tensor] | None:
        """Compare the signal of the observed context with its reference, on the device.

        Raises:
            ValueError: frames are held, but dimension 1 of the signal does not hold the frames.
        """
        if self.step.frames.videos is not None:
            frames = len(self.step.frames.videos[0][self._signal.frames])
            if signal.shape[1] % frames if frames else signal.shape[1]:
                raise ValueError(
                    f"the signal '{self.policy.signal}' has shape {tuple(signal.shape)}, but dimension 1 must hold the "
                    f"{frames} frames, or their tokens frame by frame, where some frames are held"
                )
        return self._signal.measure(signal, self.step.frames)

    def decided(self, decision: Decision, signal: Tensor | None = None) -> None:
        """Apply a decision about the current step; `signal` is the one that it is based on."""
        self.step = step = self.step._replace(computed=decision.compute or self.step.joined)
        self.trace.records.append(
            StepRecord(step.index, step.timestep, step.computed, decision.distance, decision.value, joined=step.joined)
        )
        self.reuse.begin_step(step)
        if signal is not None:
            self._signal.settle(signal, step.computed)

    def begin_blocks(self, context: str, tokens_per_frame: int, observed: bool, moves: bool) -> None:
        """Prepare for the computed blocks of one context.

        Only the `observed` context is measured, including its motion if `moves`.
        """
        self.reuse.begin_blocks(context)
        if observed:
            strides = self.policy.motion_strides(self.step.index) if moves else ()
            self._branches.begin_forward(tokens_per_frame, strides, self.step.frames)

    def measure_branch(self, site: Site, residual: Tensor) -> None:
        """Measure a computed branch of the observed context, if the policy observes it."""
        self._branches.observe(site, residual)

    def end_blocks(self, context: str, hidden_states: Tensor, output: Tensor, observed: bool) -> None:
        """Complete the measurements of one context's computed blocks, and keep what reused steps need.

        Raises:
            RuntimeError: an observed site was never reported.
        """
        if observed:
            self._branches.end_forward()
            self._awaits_report = self._signal is None
        self.reuse.keep(self.step, context, hidden_states, output)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether a branch of the block is measured or reused."""
        sites = [site for group in self.policy.observed_sites for site in group]
        return self.reuse.takes_branches or any(site.stream == stream and site.block == block for site in sites)

    def settle(self) -> None:
        """Report the measurements of the last computed step to the policy and the trace; waits for the device once."""
        if self.reuse.measures:
            self.reuse.settle(self.trace)
        if self._awaits_report:
            self._awaits_report = False
            record = self.trace.records[-1]
            report = self.policy.observe(record.index, self._branches.read_out())
            self.trace.records[-1] = replace(record, **asdict(report))

    def finish(self) -> None:
        """Complete the trace, except for the times."""
        self.settle()
        self.reuse.finish(self.trace)

    def free(self) -> None:
        """Free all tensors."""
        for holder in self._holders:
            holder.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """The tensors held now, for measuring and for reuse."""
        return [kept for holder in self._holders for kept in holder.kept]


class Tracks:
    """All schedules of a run: one for each video of a batch, or one for all.

    Row r of a batch belongs to video r % num_videos, so that a track has its rows from every guidance branch; a single
    track has all rows. If videos have several modalities, such as picture and sound, each is measured by itself, and a
    step is reused only if all of them allow it: their tracks compute the same steps.

    Attributes:
        first: the first track; the policies of all tracks are of the same kind.
        num_modalities: modalities of each video.

    Args:
        tracks: one sequence of tracks for each modality.
    """

    def __init__(self, *tracks: Sequence[Track]) -> None:
        self._tracks = tracks
        self._all = list(chain.from_iterable(tracks))
        self.first, self.num_modalities = tracks[0][0], len(tracks)
        self._running: str | None = None  # context whose blocks run
        self._measured: Sequence[Track] = ()  # only while the blocks of the observed context run

    def begin_step(self, step_index: int, timestep: float | None, frames: FrameSet, restart: bool) -> None:
        """Begin a new step for every video; waits for the measurements of the computed step before it."""
        self.settle()
        for video, tracks in enumerate(zip(*self._tracks, strict=True)):
            own_frames = frames if len(self._tracks[0]) == 1 else frames.of_video(video)
            decisions = []
            for track in tracks:
                decisions.append(track.begin_step(step_index, timestep, own_frames, restart))
            if None not in decisions:
                _decide(tracks, decisions)

    def decide(
        self, context: str, signals: Mapping[str, Callable[[], Any]], num_rows: int, observed: bool, modality: int
    ) -> None:
        """If the policies follow a signal, measure it and let them decide about the step.

        Raises:
            RuntimeError: the model does not offer that signal, or not for every modality.
            ValueError: the signal has another number of rows than the hidden states.
        """
        name, is_taken = self.first.policy.signal, self.first.reuse.takes_signal
        decides = observed and modality == 0  # for all modalities
        if name is None or not (decides or is_taken):
            return
        if name not in signals:
            offered = ", ".join(f"'{known}'" for known in signals) or "none"
            raise RuntimeError(f"this policy needs the signal '{name}', but the model offers {offered}")
        signal = signals[name]()
        own = signal if isinstance(signal, tuple) else (signal,)
        if len(own) != len(self._tracks):
            raise RuntimeError(f"the signal '{name}' has {len(own)} modalities, but the run has {len(self._tracks)}")
        for tensor in own:
            if len(tensor) != num_rows:
                raise ValueError(f"the signal '{name}' has {len(tensor)} rows, but the hidden states have {num_rows}")
        if decides:
            parts = [self._split(self.first.compared(tensor), number) for number, tensor in enumerate(own)]
            measured = [track.measure_signal(part) for pairs in parts for track, part in pairs]
            changes = iter(read_changes(measured))
            asked = [[track.policy.decide(track.step.index, next(changes)) for track, _ in pairs] for pairs in parts]
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
        """Return the blocks' output for `hidden_states`, or its replacement at a reused step."""
        tracks = self._tracks[modality]
        due = [index for index, track in enumerate(tracks) if track.step.computed]
        chosen = [tracks[index] for index in due]
        for track in chosen:
            track.begin_blocks(context, tokens_per_frame, observed, moves=modality == 0)
        if len(due) == len(tracks):
            return self._compute(chosen, hidden_states, run_blocks, (), context, observed)
        parts = [
            None if track.step.computed else track.reuse.add(track.step, context, part)
            for track, part in self._split(hidden_states, modality)
        ]
        if due:
            rows = self._rows_of(due, hidden_states)
            computed = self._compute(chosen, hidden_states[rows], run_blocks, (rows,), context, observed)
            for position, index in enumerate(due):
                parts[index] = computed[position :: len(due)]
        return _interleave(parts)

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """Return the residual that a branch adds to the hidden states, computed or reused."""
        reuse = self.first.reuse
        if reuse.takes_branches and self._running is not None:
            return reuse.branch(self._running, site, compute)
        residual = compute()
        for position, track in enumerate(self._measured):
            own = residual if len(self._measured) == 1 else residual[position :: len(self._measured)]
            track.measure_branch(site, own)
        return residual

    def output(self, latents: Tensor, output: Tensor, context: str, observed: bool, modality: int) -> Tensor:
        """Return the model's `output`, or its replacement at a reused step."""
        pairs = zip(self._split(latents, modality), self._split(output, modality), strict=True)
        return _interleave(
            [track.reuse.output(track.step, context, x, out, observed) for (track, x), (_, out) in pairs]
        )

    def held_output(self, context: str, modality: int) -> Tensor | None:
        """Return the replacement of the model's output if no video needs a call of the model, else None."""
        tracks = self._tracks[modality]
        if any(track.step.computed for track in tracks):
            return None
        return _interleave([track.reuse.held(context) for track in tracks])

    def settle(self) -> None:
        """Report the measurements of the last computed step for every video.

        A video's trace is that of its first modality, with the measurements of the modality that reuses least.
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
        """Complete the traces; a step's time is divided among the tracks that computed it, or among all if none did."""
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
        """Free all tensors."""
        for track in self._all:
            track.free()

    @property
    def kept(self) -> list[KeptTensor]:
        """The tensors held now by all tracks."""
        return [kept for track in self._all for kept in track.kept]

    def _compute(
        self,
        tracks: Sequence[Track],
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        rows: tuple[Tensor, ...],
        context: str,
        observed: bool,
    ) -> Tensor:
        """Run the blocks for the tracks that are due; `hidden_states` holds their rows."""
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
        """Pair every track of a modality with its rows."""
        tracks = self._tracks[modality]
        if len(tracks) == 1:
            return [(tracks[0], tensor)]
        return [(track, tensor[index :: len(tracks)]) for index, track in enumerate(tracks)]

    def _rows_of(self, due: list[int], hidden_states: Tensor) -> Tensor:
        """Indices of the rows of the tracks that are due, guidance branch by guidance branch."""
        branches = range(0, len(hidden_states), len(self._tracks[0]))
        rows = [first + index for first in branches for index in due]
        # Made directly on the device, the tensor would make the host wait for all work that was queued before.
        return torch.tensor(rows).to(hidden_states.device, non_blocking=True)


def _interleave(parts: list[Tensor]) -> Tensor:
    """Merge the tensors of all videos into a batch, whose row r is row r // num_videos of video r % num_videos."""
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)


def _decide(tracks: Sequence[Track], decisions: Sequence[Decision], signals: Sequence[Tensor | None] = ()) -> None:
    """Compute the step of a video if any of its modalities, each of which has a track, asks for it."""
    joint = decisions[0]
    for own in decisions[1:]:
        if (own.compute, own.value or 0.0) > (joint.compute, joint.value or 0.0):
            joint = own
    for track, own, signal in zip_longest(tracks, decisions, signals):
        if signal is not None and joint.compute and not own.compute:
            track.policy.decide(track.step.index, None)  # without a change, a policy computes and resets its sum
        track.decided(joint, signal)
