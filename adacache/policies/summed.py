"""Policies that add up expected changes until a step has to be computed: TeaCache, EasyCache and SeaCache."""

from __future__ import annotations

from typing import ClassVar, Literal

from adacache.policies.base import Decision, SignalChange, SignalPolicy


class SummedChangePolicy(SignalPolicy):
    """Reuses a step while the changes since the last computed one, this step's included, add up to little.

    The first `warmup` steps, the last one, and a step after `max_skips` reused ones in a row are always computed.
    """

    reference: ClassVar[Literal["previous", "computed"]] = "previous"

    def __init__(self, threshold: float, num_steps: int, warmup: int = 1, max_skips: int | None = None) -> None:
        self._threshold, self._max_skips = threshold, max_skips
        self._optional_steps = range(warmup, num_steps - 1)
        self._sum, self._skips = 0.0, 0

    def decide(self, step_index: int, change: SignalChange | None) -> Decision:
        """Compute unless the sum is below the threshold.

        `distance` is that of the change; `value` is the sum, None if the step is computed regardless of it.
        """
        distance = None if change is None else self.distance(change)
        summed = None
        if distance is not None and step_index in self._optional_steps and self._skips != self._max_skips:
            summed = self._sum + self.expected_change(distance)
        reused = summed is not None and summed < self._threshold  # false for NaN
        self._sum, self._skips = (summed, self._skips + 1) if reused else (0.0, 0)
        return Decision(not reused, distance, summed)

    def distance(self, change: SignalChange) -> float | None:
        """Return the signal's change as a single number, None if nothing can be said yet."""
        return change.relative

    def expected_change(self, distance: float) -> float:
        """Return what a step at this distance adds to the sum."""
        return distance
