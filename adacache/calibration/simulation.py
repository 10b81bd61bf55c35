"""What a schedule and a bridge would do to the final latents, estimated from recorded runs without the model."""

from collections.abc import Sequence

import numpy as np

from adacache.bridge import BridgeConfig
from adacache.calibration.recording import Recording

SIMULATED = ("hold", "linear", "fitted")
FLOOR_DB = 80.0  # nothing is told apart beyond


class Simulation:
    """Estimated quality of schedules under one bridge.

    On the recorded trajectory the error of every reused step is known: the bridged residual minus the one that was
    computed. Errors between two computed steps point the same way and add up; those of different gaps are taken as
    independent. What an error does to the end of the run is its step's gain. How errors change the later trajectory
    is left out, so the figures rank schedules; they do not promise decibels.

    Raises: ValueError for a bridge that is not simulated.
    """

    def __init__(self, recording: Recording, bridge: BridgeConfig) -> None:
        if bridge.kind not in SIMULATED:
            raise ValueError(
                f"schedules under the bridge '{bridge.kind}' cannot be searched; take {', '.join(SIMULATED)}"
            )
        self.num_steps = recording.num_steps
        self._gram = recording.gram
        self._amplitudes = np.sqrt(recording.gains)
        self._power = recording.power
        self._bridge = bridge
        self._gaps: dict[tuple[int, ...], np.ndarray] = {}

    def quality(self, computed_steps: Sequence[int]) -> float:
        """Estimated signal-to-noise ratio of the final latents in dB, mean over videos.

        `computed_steps` ascend from 0.
        """
        ends = [*computed_steps[1:], self.num_steps]
        # At most three computed steps decide what a gap is bridged with.
        gaps = [self._gap(tuple(computed_steps[max(0, i - 2) : i + 1]), end) for i, end in enumerate(ends)]
        error = np.sum(gaps, axis=0)
        return float(np.mean(10 * np.log10(self._power / np.maximum(error, self._power * 10 ** (-FLOOR_DB / 10)))))

    def _gap(self, history: tuple[int, ...], end: int) -> np.ndarray:
        """Squared effect (P,) of the reused steps between the last computed step of `history` and `end`."""
        key = (*history, end)
        if key not in self._gaps:
            self._gaps[key] = self._gap_effect(history, end)
        return self._gaps[key]

    def _gap_effect(self, history: tuple[int, ...], end: int) -> np.ndarray:
        last = history[-1]
        if end == last + 1:
            return np.zeros(len(self._power))
        weight = self._weight(history)
        total = np.zeros((len(self._power), self.num_steps))  # in coefficients of the computed residuals
        for step in range(last + 1, end):
            total[:, step] -= self._amplitudes[:, step]
            total[:, last] += self._amplitudes[:, step]
            if len(history) > 1:
                slope = weight * self._ratio(step - last, last - history[-2]) * self._amplitudes[:, step]
                total[:, last] += slope
                total[:, history[-2]] -= slope
        return np.maximum(self._inner(total, total), 0)

    def _weight(self, history: tuple[int, ...]) -> np.ndarray | float:
        """The bridge's weight after the last step of `history`, as `ResidualHistory` would find it."""
        if self._bridge.kind == "hold":
            return 0.0
        if self._bridge.kind == "linear" or len(history) < 3:
            return self._bridge.weight
        first, middle, last = history
        predicted, actual = (np.zeros((len(self._power), self.num_steps)) for _ in range(2))
        ratio = self._ratio(last - middle, middle - first)
        predicted[:, middle], predicted[:, first] = ratio, -ratio
        actual[:, last], actual[:, middle] = 1, -1
        power = self._inner(predicted, predicted)
        share = np.divide(self._inner(predicted, actual), power, out=np.zeros_like(power), where=power > 0)
        return share.clip(0, 1)

    def _ratio(self, gap: int, previous_gap: int) -> float:
        return min(gap / previous_gap, self._bridge.max_ratio)

    def _inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("pi,pij,pj->p", a, self._gram, b)
