"""The schedules of a run: what is decided, measured, reused and recorded for the videos of a batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adacache.frames import ALL_FRAMES, FrameSet
from adacache.meters import BranchMeter, SignalMeter, read_changes
from adacache.policies.base import Decision, PolicyConfig, Report
from adacache.policies.registry import load
from adacache.reuse.base import Reuse, Step
from adacache.shard import Shard
from adacache.sites import Site
from adacache.storage import KeptTensor, TensorStore
from adacache.trace import StepRecord, Trace


class Call(NamedTuple):
    """One call of the model's blocks in a step.

    Attributes:
        context: the guidance branch.
        modality: index of what the blocks denoise, such as 0 for the picture and 1 for its sound.
        observed: whether the call is measured: its context came first in the run.
    """

    context: str
    modality: int
    observed: bool


class Track:
    """The schedule of one modality of a video, or of all videos of a run where they share one.

    All tensors hold the rows of these videos only. The policy decides, meters measure what it decides by, and the reuse
    object keeps what reused steps need from computed ones. If other frames take part than in the step before, the step
    is computed and earlier residuals are not reused: a residual from when a frame was held does not account for the
    noise that the frame joins with, and frames attend to each other. With a `shard`, tensors hold this process's part
    of the videos, while frames and decisions are those of whole videos.
    """

    def __init__(self, config: PolicyConfig, num_steps: int, store: TensorStore, shard: Shard) -> None:
        self.policy = policy = config.make_policy(num_steps)
        self.reuse: Reuse = load(policy.reuse)(policy, config.bridge, store, shard)
        self.trace = Trace(num_steps, metadata={"bridge": config.bridge.to_dict()})
        if self.reuse.name != "stack":
            self.trace.metadata["reuses"] = self.reuse.name
        self.step = Step(-1, None, ALL_FRAMES, joined=False)
        self.branches = BranchMeter(policy.observed_sites, store, shard)
        self._signal = None
        if policy.signal is not None:
            self._signal = SignalMeter(policy.reference, store, shard, is_whole=policy.signal == "latents")
        self._holders = [self.branches, self.reuse, *([self._signal] if self._signal else [])]
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
                self.branches.free()
        self.step = Step(step_index, timestep, frames, joined)
        return Decision(self.policy.should_compute(step_index)) if self._signal is None else None

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

    def begin_blocks(self, call: Call, tokens_per_frame: int) -> None:
        """Prepare for blocks that are computed; motion is measured in the first modality only."""
        self.reuse.begin_blocks(call.context)
        if call.observed:
            strides = self.policy.motion_strides(self.step.index) if call.modality == 0 else ()
            self.branches.begin_forward(tokens_per_frame, strides, self.step.frames)

    def end_blocks(self, call: Call, hidden_states: Tensor, output: Tensor) -> None:
        """Complete the measurements of computed blocks, and keep what reused steps need.

        Raises:
            RuntimeError: an observed site was never reported.
        """
        if call.observed:
            self.branches.end_forward()
            self._awaits_report = self._signal is None
        self.reuse.keep(self.step, call.context, hidden_states, output)

    def settle(self) -> None:
        """Report the measurements of the last computed step to the policy and the trace; waits for the device once."""
        if self.reuse.measures:
            self.reuse.settle(self.trace)
        if self._awaits_report:
            self._awaits_report = False
            record = self.trace.records[-1]
            measured = self.branches.read_out() if self.policy.observed_sites else []
            report = self.policy.observe(record.index, measured)
            self.trace.records[-1] = replace(record, **asdict(report))

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

    Raises:
        ValueError: the config does not fit `num_steps`.
    """

    def __init__(
        self, config: PolicyConfig, num_steps: int, num_samples: int, num_modalities: int, shard: Shard
    ) -> None:
        store = TensorStore(config.cache_device, config.cache_dtype)
        self.first, self.num_modalities = Track(config, num_steps, store, shard), num_modalities
        count = num_samples if config.schedule == "sample" and self.first.reuse.by_video else 1
        others = (Track(config, num_steps, store, shard) for _ in range(count * num_modalities - 1))
        self._all = [self.first, *others]
        self._tracks = [self._all[modality::num_modalities] for modality in range(num_modalities)]
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

    def decide(self, call: Call, signals: Mapping[str, Callable[[], Any]], num_rows: int) -> None:
        """If the policies follow a signal, measure it and let them decide about the step.

        Raises:
            RuntimeError: the model does not offer that signal, or not for every modality.
            ValueError: the signal has another number of rows than the hidden states.
        """
        policy, is_taken = self.first.policy, self.first.reuse.takes_signal
        name = policy.signal
        decides = call.observed and call.modality == 0  # for all modalities
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
            compared = own
            if policy.signal_filter is not None:
                time = self.first.step.timestep
                compared = [load(policy.signal_filter)(tensor.detach(), time) for tensor in own]
            pairs = [pair for modality, tensor in enumerate(compared) for pair in self._split(tensor, modality)]
            changes = read_changes([track.measure_signal(part) for track, part in pairs])
            decisions = [
                track.policy.decide(track.step.index, change) for (track, _), change in zip(pairs, changes, strict=True)
            ]
            num_videos = len(self._tracks[0])
            for video in range(num_videos):
                of_video = slice(video, None, num_videos)  # one for each modality
                tracks, parts = zip(*pairs[of_video], strict=True)
                _decide(tracks, decisions[of_video], parts)
        if is_taken:
            for track, part in self._split(own[call.modality], call.modality):
                track.reuse.take_signal(call.context, part)

    def stack(
        self, call: Call, hidden_states: Tensor, run_blocks: Callable[..., Tensor], tokens_per_frame: int
    ) -> Tensor:
        """Return the blocks' output for `hidden_states`, or its replacement at a reused step."""
        tracks = self._tracks[call.modality]
        due = [index for index, track in enumerate(tracks) if track.step.computed]
        chosen = [tracks[index] for index in due]
        for track in chosen:
            track.begin_blocks(call, tokens_per_frame)
        if len(due) == len(tracks):
            return self._compute(call, chosen, hidden_states, run_blocks)
        parts = [
            None if track.step.computed else track.reuse.add(track.step, call.context, part)
            for track, part in self._split(hidden_states, call.modality)
        ]
        if due:
            rows = self._rows_of(due, hidden_states)
            computed = self._compute(call, chosen, hidden_states[rows], run_blocks, rows)
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
            track.branches.observe(site, own)
        return residual

    def output(self, call: Call, latents: Tensor, output: Tensor) -> Tensor:
        """Return the model's `output`, or its replacement at a reused step."""
        pairs = zip(self._split(latents, call.modality), self._split(output, call.modality), strict=True)
        return _interleave(
            [track.reuse.output(track.step, call.context, x, out, call.observed) for (track, x), (_, out) in pairs]
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
        """Complete the traces after `settle`, with the time of every step.

        It is divided among the tracks that computed the step, or among all if none did.
        """
        for track in self._all:
            track.reuse.finish(track.trace)
        for index, spent in enumerate(milliseconds):
            computed = sum(trace.records[index].computed for trace in self.traces)
            for trace in self.traces:
                record = trace.records[index]
                share = spent / (computed or len(self.traces)) if record.computed or not computed else 0.0
                trace.records[index] = replace(record, milliseconds=share)

    def free(self) -> None:
        """Free all tensors."""
        for track in self._all:
            track.free()

    @property
    def computes(self) -> bool:
        """Whether the step is computed for any video."""
        return any(track.step.computed for track in self._all)

    @property
    def traces(self) -> list[Trace]:
        """The trace of every video that has its own schedule."""
        return [track.trace for track in self._tracks[0]]

    @property
    def kept(self) -> list[KeptTensor]:
        """The tensors held now by all tracks."""
        return [kept for track in self._all for kept in track.kept]

    def _compute(
        self,
        call: Call,
        tracks: Sequence[Track],
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        *rows: Tensor,
    ) -> Tensor:
        """Run the blocks for the tracks that are due; `hidden_states` holds their rows."""
        self._running, self._measured = call.context, tracks if call.observed else ()
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
            track.end_blocks(call, hidden_states[own], output[own])
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
