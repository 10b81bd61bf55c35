"""What uncached runs say about reuse: how the residuals of all steps relate, and what an error at each step does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recording:
    """Uncached runs of P videos with N steps each.

    Attributes:
        gram: (P, N, N) float64; entry [p, i, j] is the inner product of the stack's residuals at steps i and j,
            per element. Sketches of the residuals give a good estimate of it.
        gains: (P, N) mean squared change of the final latents per mean squared error of the residual at that step.
        power: (P,) mean square of the final latents.

    Raises:
        ValueError: the shapes do not belong together, or a number is not finite.
    """

    gram: np.ndarray
    gains: np.ndarray
    power: np.ndarray

    def __post_init__(self) -> None:
        videos, steps = self.gains.shape
        if self.gram.shape != (videos, steps, steps) or self.power.shape != (videos,):
            raise ValueError(
                f"gram {self.gram.shape} and power {self.power.shape} do not belong to {videos} videos of {steps} steps"
            )
        if not all(np.isfinite(values).all() for values in (self.gram, self.gains, self.power)):
            raise ValueError("the recorded runs hold numbers that are not finite; sample with dtype bf16 or fp32")

    @property
    def num_steps(self) -> int:
        """Sampling steps of the runs."""
        return self.gains.shape[1]


def gram_of_sketches(sketches: np.ndarray) -> np.ndarray:
    """Inner products per element, (P, N, N), of residuals of which M elements were kept, (P, N, M)."""
    wide = sketches.astype(np.float64)
    return wide @ wide.transpose(0, 2, 1) / wide.shape[2]


def gains_from_probes(steps: Sequence[int], effects: np.ndarray, errors: np.ndarray, num_steps: int) -> np.ndarray:
    """Gains of all steps (P, N) from probes of a few.

    A probe reuses the residual of step i - 1 at step i and nothing else. Between probed steps the logarithm is
    interpolated, beyond them the nearest one holds.

    Args:
        steps: the K probed steps, ascending.
        effects: (K, P) mean squared change of the final latents.
        errors: (K, P) mean squared difference of the residuals at i and i - 1.
    """
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(effects, tiny)) - np.log(np.maximum(errors, tiny))
    return np.exp([np.interp(np.arange(num_steps), steps, video) for video in logs.T])
