"""The step controller: a policy's decisions, applied to the blocks of a model."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from adacache.options import ReuseOptions
from adacache.policies.base import BranchPolicy, PolicyConfig
from adacache.run_state import RunState
from adacache.shard import WHOLE, Shard
from adacache.sites import Site, Stream
from adacache.storage import TensorStore
from adacache.trace import Trace
from adacache.tracks import make_track
from adacache.validation import check_count


class StepController:
    """Decides at every sampling step whether a model's blocks are computed or their last residual is reused.

    The sampling loop opens a `run` and calls `begin_step`; the model hands its blocks to `stack` and their
    residual branches to `branch`; for policies that reuse the whole model, it also hands its result to `output`. All
    state belongs to the run, none to the model, so a run that was interrupted leaves nothing behind and controllers
    do not touch each other. One controller serves one run at a time.

    Where several processes share a video, each has a controller with its own `shard`, and all of them make the same
    calls: all decide alike, and as one process would. `stack`, `branch` and `output` are given what the process holds.

    Raises: TypeError when `config` is not a policy's config.
    """

    def __init__(self, config: PolicyConfig, shard: Shard = WHOLE) -> None:
        if not hasattr(config, "make_policy"):
            raise TypeError(
                f"StepController needs a policy config such as AdaCacheConfig(), got {config!r}; "
                "for no caching pass no controller"
            )
        self.config = config
        self._shard = shard
        self._run: RunState | None = None
        self._traces: list[Trace] = []

    @contextmanager
    def run(self, num_steps: int, num_samples: int = 1) -> Iterator["StepController"]:
        """Open one run of `num_steps` sampling steps; its tensors are freed at its end, whatever ends it.

        `num_samples` is the number of videos in a batch: row r of the hidden states belongs to video
        r % num_samples, as in a batch of all conditional rows followed by all unconditional ones. Unless the config
        says schedule="batch", each video has a schedule of its own. Opening another run ends one that is still open.
        It is fine to stop before the last step.

        Raises: ValueError when the config does not fit `num_steps`.
        """
        check_count("num_steps", num_steps)
        check_count("num_samples", num_samples)
        reuse = self.config if isinstance(self.config, ReuseOptions) else ReuseOptions()
        policy = self.config.make_policy(num_steps)
        # Policies of branches go by the time alone, the same for every video.
        count = num_samples if reuse.schedule == "sample" and not isinstance(policy, BranchPolicy) else 1
        policies = [policy, *(self.config.make_policy(num_steps) for _ in range(count - 1))]
        store = TensorStore(reuse.cache_device, reuse.cache_dtype)
        tracks = [make_track(policy, reuse.bridge, num_steps, store, self._shard) for policy in policies]
        run = RunState(tracks, num_samples, self._shard)
        if self._run is not None:
            self._run.free()
        self._run, self._traces = run, [track.trace for track in tracks] * (num_samples // count)
        try:
            yield self
            # Not after an error: reading from a device that just failed would hide what happened.
            run.finish()
        finally:
            run.free()
            if self._run is run:
                self._run = None

    def begin_step(
        self,
        step_index: int,
        timestep: float | None = None,
        generated_frames: Sequence[Sequence[bool]] | None = None,
        restart: bool = False,
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

        Raises: ValueError when a step is left out or repeated, or `generated_frames` are not as they should be;
        RuntimeError outside of a run, or when the model did not call `stack` in the step before.
        """
        self._active("begin_step").begin_step(step_index, timestep, generated_frames, restart)

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        tokens_per_frame: int,
        context: str = "default",
        signals: Mapping[str, Callable[[], Tensor]] | None = None,
    ) -> Tensor:
        """Run all blocks of one forward pass, or add the residual (output - input) that the bridge gives.

        `hidden_states` is (B, N, C), tokens frame by frame with `tokens_per_frame` of them each; so is the
        result, which at a computed step is exactly `run_blocks(hidden_states)`. Where only some videos of a batch are
        due, their rows are gathered and `run_blocks(hidden_states[rows], rows)` is called, with the indices of the
        rows as a tensor. Call it once per step, or once per step and `context` where guidance branches run one after
        the other: each context has its own residuals, the decision is shared, and only the context that came first
        in the run is measured.

        `signals` are what a policy may want to see before it decides, with the rows of the hidden states:
        "latents", the model's input; "modulated_input", the first block's normalized and modulated input;
        "first_block", the residual of the first block, which `run_blocks` then need not compute again. Only the one
        that the policy goes by is called, at most once and before `run_blocks`. It is kept by reference: do not change
        it in place afterwards. All have their frames in order in dimension 1, as (B, T, ...) or as tokens frame by
        frame (B, N, ...), so that frames that are held can be left out; latents (B, C, T, H, W) are given transposed.

        Raises: RuntimeError outside of a run, when called twice, or without the policy's signal; ValueError when the
        shape changed during the run, or the rows or frames do not belong to the run's videos.
        """
        run = self._active("stack")
        return run.stack(hidden_states, run_blocks, tokens_per_frame, context, signals or {})

    def output(self, latents: Tensor, output: Tensor, context: str = "default") -> Tensor:
        """What the model returns: `output`, or at a step that reuses the whole model what replaces it.

        `latents` (B, C, T, ...) are the model's input and `output` (B, C or more, T, ...) what its last layer made of
        the result of `stack`. Only policies that reuse the output need this call; for others it changes nothing.

        Raises: RuntimeError outside of a run, twice in a step, or before `stack`; ValueError where the two do not fit.
        """
        return self._active("output").output(latents, output, context)

    def branch(self, site: Site, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, the residual that a branch adds to the hidden states; measured if asked for.

        It is (B, N, C), tokens frame by frame, or (B, T, S, C) with the frames apart.

        The residual is kept by reference: do not change it in place afterwards.

        Raises: RuntimeError outside of a run.
        """
        return self._active("branch").branch(site, compute)

    def watches(self, stream: Stream, block: int) -> bool:
        """Whether this run's policy measures or reuses a branch of the block.

        A block that it does not watch need not call `branch`, and can run as one piece.

        Raises: RuntimeError outside of a run.
        """
        return self._active("watches").tracks[0].watches(stream, block)

    @property
    def traces(self) -> list[Trace]:
        """One trace per video of the current run so far, or of the last run; with one schedule all are the same.

        Reading them right after a computed step waits for the device, as the next `begin_step` otherwise would.

        Raises: RuntimeError before the first run.
        """
        if not self._traces:
            raise RuntimeError("there is no trace before the first run; open one with controller.run(num_steps)")
        if self._run is not None:
            self._run.settle()
        return self._traces

    @property
    def step_counts(self) -> list[tuple[int, int]]:
        """Computed and reused steps so far of every video; never waits for the device, as `traces` may."""
        return [(trace.num_computed, trace.num_reused) for trace in self._traces]

    @property
    def trace(self) -> Trace:
        """The trace of the first video, which is the only one unless a batch has a schedule per video.

        Raises: RuntimeError before the first run.
        """
        return self.traces[0]

    @property
    def observed_sites(self) -> tuple[Site, ...]:
        """The branches that the run's policy wants to see, each once; empty for policies that measure none.

        For models whose blocks cannot call `branch` by themselves: only these need to be watched from outside.

        Raises: RuntimeError outside of a run.
        """
        return self._active("observed_sites").tracks[0].observed_sites

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
        for kept in self._run.kept if self._run is not None else ():
            memory.update(kept.memory)
        return dict(memory)

    def _active(self, method: str) -> RunState:
        if self._run is None:
            raise RuntimeError(
                f"controller.{method} was called outside of a run; wrap the sampling loop in "
                "'with controller.run(num_steps):'"
            )
        return self._run
