"""Constants of published policies, measured in runs without reuse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from adacache.controller import RunObserver, StepController
from adacache.options import plain

DEGREE = 4  # of TeaCache's polynomial, as published


@dataclass(frozen=True)
class PolicyCalibration:
    """Constants of two policies for one model, number of steps and video size.

    Attributes:
        num_steps, num_videos: numbers of steps and videos in the runs that were measured.
        teacache_coefficients: polynomial, highest power first, from the relative change of the first block's modulated
            input between neighboring steps to that of the model's output.
        teacache_r2: share of the output change's variance that the polynomial explains; near 0 it says nothing.
        magcache_ratios: one for every step but the first: the mean over tokens and videos of |r_t| / |r_(t-1)|, with r
            the residual of the stack of blocks.
        magcache_spread: standard deviation of the ratios over videos, mean over steps.
    """

    num_steps: int
    num_videos: int
    teacache_coefficients: tuple[float, ...]
    teacache_r2: float
    magcache_ratios: tuple[float, ...]
    magcache_spread: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` reads them back."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            TypeError: something is missing or unknown.
        """
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class SignalRecorder(RunObserver):
    """Measures what the policies are fitted to, per video of a run that computes every step; waits for the device.

    If guidance branches run one after another, only the context that came first in the run is measured.

    Attributes:
        input_changes, output_changes: for each step but the first, (videos,) relative L1 changes of the modulated input
            and of the model's output since the step before.
        ratios: for each step but the first, (videos,) mean ratios of the residual's token norms to those of the step
            before.
    """

    def __init__(self) -> None:
        self.input_changes: list[np.ndarray] = []
        self.output_changes: list[np.ndarray] = []
        self.ratios: list[np.ndarray] = []
        self._num_samples = 1
        self._observed_context: str | None = None
        self._previous: dict[str, Tensor] = {}

    def begin_run(self, controller: StepController, num_steps: int, num_samples: int) -> None:
        """Forget the run before."""
        self.input_changes, self.output_changes, self.ratios = [], [], []
        self._num_samples = num_samples
        self._observed_context = None

    def end_stack(
        self, hidden_states: Tensor, output: Tensor, context: str, signals: Mapping[str, Callable[[], Tensor]]
    ) -> None:
        """Measure the first block's modulated input and the stack's residual; a RuntimeError without that input."""
        if "modulated_input" not in signals:
            raise RuntimeError("TeaCache cannot be fitted to this model, which offers no signal 'modulated_input'")
        self._observed_context = self._observed_context or context
        if context == self._observed_context:
            self._note(self.input_changes, "input", signals["modulated_input"](), self._relative_changes)
            self._note(self.ratios, "norms", (output - hidden_states).float().norm(dim=-1), self._mean_ratios)

    def end_output(self, latents: Tensor, output: Tensor, context: str) -> None:
        """Measure the model's output."""
        if context == self._observed_context:
            self._note(self.output_changes, "output", output[:, : latents.shape[1]], self._relative_changes)

    def end_run(self) -> None:
        """Free all tensors."""
        self._previous = {}

    def _note(
        self, results: list[np.ndarray], name: str, current: Tensor, compare: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        if name in self._previous:
            results.append(compare(self._previous[name], current).double().cpu().numpy())
        self._previous[name] = current.detach()

    def _by_video(self, tensor: Tensor) -> Tensor:
        """(B, ...) -> (videos, numbers): row r of a batch belongs to video r % num_samples."""
        return tensor.float().unflatten(0, (-1, self._num_samples)).movedim(1, 0).flatten(1)

    def _relative_changes(self, previous: Tensor, current: Tensor) -> Tensor:
        before, after = self._by_video(previous), self._by_video(current)
        return (before - after).abs().sum(1) / before.abs().sum(1)

    def _mean_ratios(self, previous: Tensor, current: Tensor) -> Tensor:
        return self._by_video(current / previous.clamp_min(torch.finfo(previous.dtype).tiny)).mean(1)


def fit_policies(inputs: np.ndarray, outputs: np.ndarray, ratios: np.ndarray) -> PolicyCalibration:
    """Return the constants for measurements of shape (videos, steps - 1) each, as `SignalRecorder` makes them.

    Raises:
        ValueError: there are fewer measurements than coefficients, one is NaN, or all inputs are the same.
    """
    if inputs.size <= DEGREE or not all(np.isfinite(values).all() for values in (inputs, outputs, ratios)):
        raise ValueError(
            f"{inputs.size} measurements do not fit a polynomial of degree {DEGREE}, or some are not finite; "
            "run more steps or videos"
        )
    if np.ptp(inputs) == 0:
        raise ValueError(
            f"all {inputs.size} measured changes of the input are {inputs.flat[0]:g}, so no polynomial can be fitted "
            "to them; run more steps or other videos"
        )
    x, y = inputs.ravel(), outputs.ravel()
    coefficients = np.polyfit(x, y, DEGREE)
    residual = y - np.polyval(coefficients, x)
    variance = float(np.var(y))
    return PolicyCalibration(
        num_steps=inputs.shape[1] + 1,
        num_videos=len(inputs),
        teacache_coefficients=tuple(float(value) for value in coefficients),
        teacache_r2=1 - float(np.mean(residual**2)) / variance if variance else 0.0,
        magcache_ratios=tuple(float(value) for value in ratios.mean(0)),
        magcache_spread=float(ratios.std(0).mean()),
    )
