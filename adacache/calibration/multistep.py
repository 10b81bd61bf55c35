"""Coefficients that combine outputs of the last computed steps, so that the latents come where they should.

From a computed step to the next one a loop is given one output of the model for each guidance half. Where it ends then
is linear in the outputs, whatever the sampler: so the response to each of the last outputs alone is tried out, without
the model, and coefficients are a least-squares fit to the latents that are wanted. One step after the other is fitted,
with the clips' own latents, so that errors of earlier steps are corrected and not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adacache.calibration.plan import Clip
from adacache.calibration.replay import LoopWatcher, Outputs, ReplayConfig, RunStopped
from adacache.calibration.runner import ClipSampler
from adacache.controller import StepController
from adacache.policies.multistep import Coefficients
from adacache.policies.static import StaticScheduleConfig

NUM_OUTPUTS = 3  # of each guidance half that are combined
RIDGE = 1e-4  # of the mean diagonal, towards holding the newest output
SKETCH_ELEMENTS = 2**15  # of a clip's latents; inner products of sketches are then good to about one percent
# By so much outputs are enlarged whose response is tried: latents may be rounded to 16 bits on their way.
PROBE_SCALE = 16.0


@dataclass(frozen=True)
class Target:
    """Where the latents of a batch should be, and what the model gave on the way there.

    Attributes:
        latents: (B, ...) at the beginning of every step, and at the end; on the CPU.
        sketch: (N + 1 + N * halves, B * M) float32: some elements of the model's input at every step and at the end,
            then of its outputs.
        power: sum of squares of the final latents.
        restarts: steps from which another model runs; they are always computed, and outputs of before are gone.
    """

    clips: Sequence[Clip]
    latents: tuple[Tensor, ...]
    sketch: np.ndarray
    power: float
    restarts: frozenset[int] = frozenset()


def record_target(sampler: ClipSampler, clips: Sequence[Clip], refinement: int = 1) -> Target:
    """Run a batch with every step computed.

    Args:
        refinement: steps of the run for each one of the sampler's.
    """
    steps = range(0, sampler.num_steps * refinement, refinement)
    with sampler.refined(refinement):
        watcher = LoopWatcher(begins=steps, calls=steps)
        every_step = StaticScheduleConfig(tuple(range(sampler.num_steps)))
        controller = StepController(every_step, observers=[watcher])
        end = sampler.latents(clips, controller)
    latents = tuple(watcher.latents[step].cpu() for step in steps)
    inputs = [watcher.inputs[step] for step in steps]
    halves = [torch.cat(list(watcher.outputs[step].values())).unflatten(0, (-1, len(clips))) for step in steps]
    picked = _positions(inputs[0][0].numel())
    # A pipeline may give back its latents in another layout; they are taken to go on as in the step before then.
    last = end if end.shape == inputs[-1].shape else 2 * inputs[-1] - inputs[-2]
    rows = [_sketch(tensor, picked) for tensor in (*inputs, last)]
    for outputs in halves:
        rows += [_sketch(half[:, : inputs[0].shape[1]], picked) for half in outputs]
    restarts = frozenset(-(-record.index // refinement) for record in controller.trace.records if record.joined)
    return Target(clips, (*latents, end.cpu()), np.stack(rows), float(end.double().square().sum()), restarts)


def _positions(numel: int) -> Tensor:
    """Which elements of a clip are kept."""
    count = min(SKETCH_ELEMENTS, numel)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(numel, (count,), generator=generator) if count < numel else torch.arange(numel)


def _sketch(tensor: Tensor, picked: Tensor) -> np.ndarray:
    """(B, ...) -> (B * M,)."""
    return tensor.flatten(1)[:, picked.to(tensor.device)].float().cpu().flatten().numpy()


@dataclass
class Fit:
    """The coefficients of one list of computed steps.

    Attributes:
        quality: signal-to-noise ratio in dB of the final latents of the clips that they were fitted to.
    """

    computed_steps: tuple[int, ...]
    coefficients: tuple[Coefficients, ...] = ()
    quality: float = 0.0


@dataclass
class _Batch:
    """A batch whose steps are fitted up to some step.

    Attributes:
        replayed: what stands in for the model's outputs, by computed step.
        history: the model's own outputs of the last computed steps, the newest first.
    """

    target: Target
    replayed: dict[int, Outputs] = field(default_factory=dict)
    history: list[Outputs] = field(default_factory=list)


class MultistepFitter:
    """Fits coefficients on clips whose targets were recorded.

    Args:
        finished: is told how many calls of the model, one for each clip, are done.
    """

    def __init__(
        self, sampler: ClipSampler, targets: Sequence[Target], finished: Callable[[int], object] = lambda _: None
    ) -> None:
        self._sampler = sampler
        self._targets = targets
        self._finished = finished

    def fit(self, computed_steps: Sequence[int]) -> Fit:
        """Coefficients for a list of computed steps, which begins with 0; each step costs every clip one call."""
        batches = [_Batch(target) for target in self._targets]
        coefficients: list[Coefficients] = []
        ends = [*computed_steps[1:], self._sampler.num_steps]
        error = 0.0
        for step, end in zip(computed_steps, ends, strict=True):
            systems = [self._system(batch, step, end) for batch in batches]
            matrix, vector, square = (sum(parts) for parts in zip(*systems, strict=True))
            num_outputs = len(batches[0].history)
            weights = _solve(matrix, vector, num_outputs)
            error = float(square - 2 * weights @ vector + weights @ matrix @ weights)
            coefficients.append(tuple(tuple(half) for half in weights.reshape(-1, num_outputs).tolist()))
            for batch in batches:
                batch.replayed[step] = _combined(coefficients[-1], batch.history)
        power = sum(target.power for target in self._targets)
        quality = 10 * np.log10(power / max(error, power * 1e-12))
        return Fit(tuple(computed_steps), tuple(coefficients), float(quality))

    def _system(self, batch: _Batch, step: int, end: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Normal equations of a gap: matrix (K, K), vector (K,) and the sum of squares that is to be met.

        K counts guidance halves, and for each of them the outputs, the newest first.
        """
        watcher = LoopWatcher(calls=[step], stop=step + 1)
        self._run(batch, batch.replayed, watcher, live=step)
        self._finished(len(batch.target.clips))
        outputs = watcher.outputs[step]
        before = [] if step in batch.target.restarts else batch.history
        batch.history = [outputs, *before][:NUM_OUTPUTS]
        nothing = {context: torch.zeros_like(output) for context, output in outputs.items()}
        base = self._reached(batch, step, end, nothing)
        wanted = (batch.target.latents[end].to(base.device) - base).double()
        responses = []
        for half in range(_num_halves(outputs, batch)):
            for past in batch.history:
                alone = {
                    context: _only(half, past[context], place, len(batch.target.clips)) * PROBE_SCALE
                    for context, place in _first_halves(past, batch).items()
                }
                responses.append((self._reached(batch, step, end, alone) - base).double() / PROBE_SCALE)
        basis = torch.stack(responses).flatten(1)
        flat = wanted.flatten()
        return (basis @ basis.T).cpu().numpy(), (basis @ flat).cpu().numpy(), float(flat @ flat)

    def _reached(self, batch: _Batch, step: int, end: int, outputs: Outputs) -> Tensor:
        """Latents at the step `end`, float32, where from `step` on the model gives `outputs`."""
        watcher = LoopWatcher(begins=[end], stop=end)
        final = self._run(batch, {**batch.replayed, step: outputs}, watcher)
        return (watcher.latents[end] if final is None else final).float()

    def _run(
        self, batch: _Batch, outputs: Mapping[int, Outputs], watcher: LoopWatcher, live: int | None = None
    ) -> Tensor | None:
        """Final latents, None where the watcher ends the run before."""
        controller = StepController(ReplayConfig(outputs, live), observers=[watcher])
        try:
            return self._sampler.latents(batch.target.clips, controller)
        except RunStopped:
            return None


def _first_halves(outputs: Outputs, batch: _Batch) -> dict[str, int]:
    """Number of the first guidance half of each context, as they come."""
    first, numbers = 0, {}
    for context, output in outputs.items():
        numbers[context] = first
        first += len(output) // len(batch.target.clips)
    return numbers


def _num_halves(outputs: Outputs, batch: _Batch) -> int:
    return sum(map(len, outputs.values())) // len(batch.target.clips)


def _only(half: int, output: Tensor, first: int, num_clips: int) -> Tensor:
    """`output` with all rows zero but those of a guidance half; its first rows are of the half `first`."""
    kept = torch.zeros_like(output)
    rows = slice((half - first) * num_clips, (half - first + 1) * num_clips)
    if half >= first:
        kept[rows] = output[rows]
    return kept


def _combined(coefficients: Coefficients, history: Sequence[Outputs]) -> Outputs:
    """For each context the weighted sum of its last outputs, the newest first, half by half, in float32."""
    combined, first = {}, 0
    num_halves = len(coefficients)
    num_clips = sum(map(len, history[0].values())) // num_halves
    for context, newest in history[0].items():
        count = len(newest) // num_clips
        weights = torch.tensor(coefficients[first : first + count]).repeat_interleave(num_clips, 0)  # (B, outputs)
        parts = [past[context].float() for past in history]
        shape = (-1, *[1] * (newest.ndim - 1))
        combined[context] = sum(
            part * weights[:, place].to(part.device).view(shape) for place, part in enumerate(parts)
        ).to(newest.dtype)
        first += count
    return combined


def _solve(matrix: np.ndarray, vector: np.ndarray, num_outputs: int) -> np.ndarray:
    """Ridge regression towards holding the newest output of each half."""
    held = (np.arange(len(vector)) % num_outputs == 0).astype(float)
    strength = RIDGE * np.trace(matrix) / len(matrix)
    if strength == 0:  # some schedulers begin with a step that goes by no output
        return held
    return np.linalg.solve(matrix + strength * np.eye(len(matrix)), vector + strength * held)


class MultistepSimulation:
    """Estimated quality of lists of computed steps, from recorded targets alone.

    On the way to the target, the latents at the end of every gap are predicted from those at its beginning and the last
    outputs, by a least-squares fit of its own. What its error does to the end of the run is taken to fall evenly, in
    logarithms, from `early` times as much at the first step. The figures rank lists; they do not promise decibels.
    """

    def __init__(self, targets: Sequence[Target], num_steps: int, early: float) -> None:
        self.num_steps = num_steps
        # Inner products add up over clips.
        self._gram = sum(target.sketch.astype(np.float64) @ target.sketch.T.astype(np.float64) for target in targets)
        self._halves = (len(self._gram) - 1) // num_steps - 1
        self._restarts = sorted(targets[0].restarts)
        self._gains = np.geomspace(early, 1, num_steps)
        self._gaps: dict[tuple[int, ...], float] = {}

    def quality(self, computed_steps: Sequence[int]) -> float:
        """Estimated signal-to-noise ratio of the final latents in dB; `computed_steps` ascend from 0.

        Without a step from which another model runs, it is minus infinity.
        """
        ends = [*computed_steps[1:], self.num_steps]
        error = 0.0
        for place, end in enumerate(ends):
            history = computed_steps[max(0, place - NUM_OUTPUTS + 1) : place + 1]
            if self._restarts:
                if any(history[-1] < restart < end for restart in self._restarts):
                    return -math.inf
                begin = max((restart for restart in self._restarts if restart <= history[-1]), default=0)
                history = [step for step in history if step >= begin]
            error += self._gap(tuple(history), end)
        return float(-10 * np.log10(max(error, 1e-12)))

    def _gap(self, history: tuple[int, ...], end: int) -> float:
        key = (*history, end)
        if key not in self._gaps:
            self._gaps[key] = self._error(history, end)
        return self._gaps[key]

    def _error(self, history: tuple[int, ...], end: int) -> float:
        """Squared error of the latents at `end`, as a share of their power, times its gain."""
        step = history[-1]
        first = self.num_steps + 1
        known = [step, *(first + past * self._halves + half for past in history for half in range(self._halves))]
        matrix, vector = self._gram[np.ix_(known, known)], self._gram[known, end]
        strength = 1e-9 * np.trace(matrix) / len(matrix)
        weights = np.linalg.solve(matrix + strength * np.eye(len(matrix)), vector)
        error = self._gram[end, end] - 2 * weights @ vector + weights @ matrix @ weights
        return float(max(error, 0.0) / self._gram[end, end] * self._gains[step])
