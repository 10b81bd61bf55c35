"""Coefficients that combine the outputs of the last computed steps, so that the latents end up where they should.

From one computed step to the next, a loop gets one output of the model for each guidance half. The latents that it
reaches are linear in these outputs, whatever the sampler. So the response to each of the last outputs alone is
measured, without the model, and the coefficients are a least-squares fit to the latents that are wanted. One step after
the other is fitted, on the clips' own latents, so that errors of earlier steps are corrected and not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adacache.calibration.plan import Clip
from adacache.calibration.replay import LoopWatcher, Replay, RunStopped
from adacache.calibration.runner import ClipSampler
from adacache.controller import StepController
from adacache.policies.multistep import Coefficients
from adacache.policies.static import StaticScheduleConfig

NUM_OUTPUTS = 3  # that are combined for each guidance half
REWEIGHTED = 2  # times that clips are weighed anew by their errors
RIDGE = 1e-4  # of the mean diagonal, towards holding the newest output
SKETCH_ELEMENTS = 2**15  # of a clip's latents; inner products of sketches are then good to about one percent
# Factor on outputs whose response is measured, since latents may be rounded to 16 bits on the way.
PROBE_SCALE = 16.0


@dataclass(frozen=True)
class Target:
    """Where the latents of a batch should be, and what the model returned on the way there.

    Attributes:
        latents: (B, ...) at the beginning of every step, and at the end; on the CPU.
        sketch: (B, N + 1 + N * halves, M) float32: some elements of the model's input at every step and at the end,
            then of its outputs.
        power: (B,) sum of squares of the final latents.
        restarts: steps from which another model runs; they are always computed, and earlier outputs are dropped.
    """

    clips: Sequence[Clip]
    latents: tuple[Tensor, ...]
    sketch: np.ndarray
    power: np.ndarray
    restarts: frozenset[int] = frozenset()


def record_target(sampler: ClipSampler, clips: Sequence[Clip], refinement: int = 1) -> Target:
    """Run a batch with every step computed, and record its target.

    Args:
        refinement: number of steps that are run in place of each of the sampler's.
    """
    steps = range(0, sampler.num_steps * refinement, refinement)
    with sampler.refined(refinement):
        watcher = LoopWatcher(begins=steps, calls=steps)
        every_step = StaticScheduleConfig(tuple(range(sampler.num_steps)))
        controller = StepController(every_step, observers=[watcher])
        end = sampler.latents(clips, controller)
    latents = tuple(watcher.latents[step].cpu() for step in steps)
    inputs = [watcher.inputs[step] for step in steps]
    picked = _positions(inputs[0][0].numel())
    # A pipeline may return its latents in another layout; the last step is then assumed to repeat the one before.
    last = end if end.shape == inputs[-1].shape else 2 * inputs[-1] - inputs[-2]
    rows = [_sketch(tensor, picked) for tensor in (*inputs, last)]
    for step in steps:
        rows += [_sketch(half[:, : inputs[0].shape[1]], picked) for half in watcher.outputs(step)]
    restarts = frozenset(-(-record.index // refinement) for record in controller.trace.records if record.joined)
    power = end.double().square().flatten(1).sum(1).cpu().numpy()
    return Target(clips, (*latents, end.cpu()), np.stack(rows, axis=1), power, restarts)


def _positions(numel: int) -> Tensor:
    """Return the indices of a clip's elements that are kept."""
    count = min(SKETCH_ELEMENTS, numel)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(numel, (count,), generator=generator) if count < numel else torch.arange(numel)


def _sketch(tensor: Tensor, picked: Tensor) -> np.ndarray:
    """Pick elements of each clip: (B, ...) -> (B, M)."""
    return tensor.flatten(1)[:, picked.to(tensor.device)].float().cpu().numpy()


@dataclass(frozen=True)
class Fit:
    """The coefficients of one list of computed steps.

    Attributes:
        quality: signal-to-noise ratio in dB of the final latents, mean over the clips that they were fitted to.
    """

    computed_steps: tuple[int, ...]
    coefficients: tuple[Coefficients, ...]
    quality: float


@dataclass
class _Batch:
    """A batch whose steps are fitted up to some step.

    Attributes:
        replayed: the fitted replacements of the model's outputs (halves, B, C, ...), by computed step.
        history: the model's own outputs of the last computed steps, the newest first, in the same shape.
    """

    target: Target
    replayed: dict[int, Tensor] = field(default_factory=dict)
    history: list[Tensor] = field(default_factory=list)


class MultistepFitter:
    """Fits coefficients on clips whose targets were recorded.

    Args:
        finished: called with the number of model calls, one for each clip, that have just been done.
    """

    def __init__(
        self, sampler: ClipSampler, targets: Sequence[Target], finished: Callable[[int], object] = lambda _: None
    ) -> None:
        self._sampler = sampler
        self._targets = targets
        self._finished = finished

    def fit(self, computed_steps: Sequence[int]) -> Fit:
        """Return coefficients for a list of computed steps, which begins with 0; a step costs every clip one call.

        Raises:
            ValueError: latents are not finite.
        """
        batches = [_Batch(target) for target in self._targets]
        coefficients: list[Coefficients] = []
        ends = [*computed_steps[1:], self._sampler.num_steps]
        for step, end in zip(computed_steps, ends, strict=True):
            systems = [self._system(batch, step, end) for batch in batches]
            clips = _Systems(*(np.concatenate(parts) for parts in zip(*systems, strict=True)))
            if not all(np.isfinite(part).all() for part in clips):
                raise ValueError("the clips hold numbers that are not finite; sample with dtype bf16 or fp32")
            num_outputs = len(batches[0].history)
            weights = clips.solve(num_outputs)
            coefficients.append(tuple(tuple(half) for half in weights.reshape(-1, num_outputs).tolist()))
            for batch in batches:
                batch.replayed[step] = _combined(coefficients[-1], batch.history)
        power = np.concatenate([target.power for target in self._targets])
        quality = np.mean(10 * np.log10(power / np.maximum(clips.errors(weights), power * 1e-12)))
        return Fit(tuple(computed_steps), tuple(coefficients), float(quality))

    def _system(self, batch: _Batch, step: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the normal equations of a gap for each clip, as in `_Systems`.

        K runs over the guidance halves and, within each, over the outputs, the newest first.
        """
        watcher = LoopWatcher(calls=[step], stop=step + 1)
        self._run(batch, batch.replayed, watcher, live=step)
        self._finished(len(batch.target.clips))
        outputs = watcher.outputs(step)
        before = [] if step in batch.target.restarts else batch.history
        batch.history = [outputs, *before][:NUM_OUTPUTS]
        base = self._latents_at(batch, step, end, torch.zeros_like(outputs))
        wanted = (batch.target.latents[end].to(base.device) - base).double()
        responses = []
        for half in range(len(outputs)):
            for past in batch.history:
                alone = torch.zeros_like(past)
                alone[half] = past[half] * PROBE_SCALE
                responses.append((self._latents_at(batch, step, end, alone) - base).double() / PROBE_SCALE)
        basis = torch.stack(responses, dim=1).flatten(2)  # (B, K, elements)
        flat = wanted.flatten(1)
        parts = basis @ basis.mT, (basis @ flat[..., None])[..., 0], flat.square().sum(1)
        return tuple(part.cpu().numpy() for part in parts)

    def _latents_at(self, batch: _Batch, step: int, end: int, outputs: Tensor) -> Tensor:
        """Return the latents at step `end`, in float32, if the model returns `outputs` from `step` on."""
        watcher = LoopWatcher(begins=[end], stop=end)
        final = self._run(batch, {**batch.replayed, step: outputs}, watcher)
        return (watcher.latents[end] if final is None else final).float()

    def _run(
        self, batch: _Batch, outputs: Mapping[int, Tensor], watcher: LoopWatcher, live: int | None = None
    ) -> Tensor | None:
        """Return the final latents, or None if the watcher ends the run before."""
        controller = StepController(Replay(outputs, live), observers=[watcher])
        try:
            return self._sampler.latents(batch.target.clips, controller)
        except RunStopped:
            return None


def _combined(coefficients: Coefficients, history: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of the last outputs (halves, B, ...), the newest first, half by half, in float32."""
    weights = torch.tensor(coefficients, device=history[0].device)  # (halves, outputs)
    shape = (-1, *[1] * (history[0].ndim - 1))
    total = sum(past.float() * weights[:, place].view(shape) for place, past in enumerate(history))
    return total.to(history[0].dtype)


class _Systems(NamedTuple):
    """Least-squares problems of one gap, for B clips, with the same K coefficients for all.

    Attributes:
        matrix: (B, K, K) inner products of the responses.
        vector: (B, K) inner products of the responses with the change that is wanted.
        square: (B,) inner products of that change with itself.
    """

    matrix: np.ndarray
    vector: np.ndarray
    square: np.ndarray

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Return each clip's remaining squared error, (B,)."""
        left = self.square - 2 * self.vector @ weights + np.einsum("i,bij,j->b", weights, self.matrix, weights)
        return np.maximum(left, 0)

    def solve(self, num_outputs: int) -> np.ndarray:
        """Return the ridge regression towards holding the newest output of each half.

        Quality is counted in decibels, so a clip's error weighs relative to what is left of it: clips are weighed anew
        by the errors of the solution before, those with next to no error by a tenth of the mean.
        """
        held = (np.arange(self.matrix.shape[1]) % num_outputs == 0).astype(float)
        clips = np.ones(len(self.square))
        for _ in range(REWEIGHTED + 1):
            matrix = np.tensordot(clips, self.matrix, axes=1)
            strength = RIDGE * np.trace(matrix) / len(matrix)
            if strength == 0:  # some schedulers begin with a step that ignores the output
                return held
            vector = clips @ self.vector
            weights = np.linalg.solve(matrix + strength * np.eye(len(matrix)), vector + strength * held)
            errors = self.errors(weights)
            if not errors.any():
                break
            clips = 1 / (errors + 0.1 * errors.mean())
        return weights
