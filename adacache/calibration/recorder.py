"""A controller that keeps a sketch of every residual it sees."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adacache.controller import StepController
from adacache.policies.static import StaticScheduleConfig

SKETCH_ELEMENTS = 2**15  # per row of the batch; inner products of sketches are then good to about one percent


class ResidualRecorder(StepController):
    """Runs a static schedule and keeps some elements of the stack's residual at every step, computed or reused.

    The elements are drawn once, the same for every recorder of one `elements`, so that sketches of different runs can
    be compared. They are held on the CPU in float32: `elements` numbers per row and step, whatever the model's size.
    """

    def __init__(self, config: StaticScheduleConfig, elements: int = SKETCH_ELEMENTS) -> None:
        super().__init__(config)
        self._elements = elements
        self._picked: Tensor | None = None
        self._steps: list[list[Tensor]] = []  # per step the sketches (B, M) of its calls
        self._num_samples = 1

    @contextmanager
    def run(self, num_steps: int, num_samples: int = 1) -> Any:
        """As `StepController.run`; forgets the sketches of the run before, whose residuals may have another size."""
        self._steps, self._num_samples, self._picked = [], num_samples, None
        with super().run(num_steps, num_samples) as controller:
            yield controller

    def begin_step(
        self,
        step_index: int,
        timestep: float | None = None,
        generated_frames: Sequence[Sequence[bool]] | None = None,
        restart: bool = False,
    ) -> None:
        """As `StepController.begin_step`."""
        super().begin_step(step_index, timestep, generated_frames, restart)
        self._steps.append([])

    def stack(
        self,
        hidden_states: Tensor,
        run_blocks: Callable[..., Tensor],
        tokens_per_frame: int,
        context: str = "default",
        signals: Mapping[str, Callable[[], Tensor]] | None = None,
    ) -> Tensor:
        """As `StepController.stack`; waits for the device once, to fetch the sketch."""
        output = super().stack(hidden_states, run_blocks, tokens_per_frame, context, signals)
        picked = self._positions(hidden_states[0].numel(), hidden_states.device)
        before, after = (tensor.flatten(1)[:, picked].float() for tensor in (hidden_states, output))
        self._steps[-1].append((after - before).cpu())
        return output

    def sketches(self) -> np.ndarray:
        """Sketches of the last run, (videos, steps, M) float32; M counts the rows of all guidance branches."""
        steps = [torch.cat(calls) for calls in self._steps]  # (B, M) each, row r of video r % num_samples
        by_branch = torch.stack(steps, dim=1).unflatten(0, (-1, self._num_samples))  # (G, P, N, M)
        return by_branch.permute(1, 2, 0, 3).flatten(2).numpy()

    def _positions(self, numel: int, device: torch.device) -> Tensor:
        if self._picked is None:
            count = min(self._elements, numel)
            # Drawn with replacement: a permutation of all elements of a long video would take more than the video.
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(numel, (count,), generator=generator) if count < numel else torch.arange(numel)
            self._picked = drawn.to(device)
        return self._picked
