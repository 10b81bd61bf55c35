"""Time tasks that are to be compared in turns, so that whatever slows the machine slows all of them alike.

`torch.utils.benchmark` times one statement after the other, in blocks and with warm-up runs of its own: whatever slows
the machine meanwhile hits only one of them, and a whole command, or the first compiled step, would run three times.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch


@dataclass(frozen=True)
class Samples:
    """A figure that was measured more than once.

    Attributes:
        values: one per turn, without warm-up.
        unit: "s" or "ms" of times, "" of ratios.

    Raises:
        ValueError: there are no values, or one is not positive and finite.
    """

    values: tuple[float, ...]
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.values or not all(0 < value < math.inf for value in self.values):
            raise ValueError(f"a figure needs samples that are positive and finite, got {self.values}")

    @property
    def median(self) -> float:
        """The median, which a few disturbed turns do not move."""
        return median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The ends of the interquartile range."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        first, _, third = quantiles(self.values, n=4, method="inclusive")
        return first, third

    def over(self, other: Samples) -> Samples:
        """Return the ratios to `other`, turn by turn, in which whatever disturbed a whole turn cancels."""
        return Samples(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def in_milliseconds(self) -> Samples:
        """Return times in seconds as milliseconds."""
        return Samples(tuple(1000 * value for value in self.values), "ms")


def seconds(task: Callable[[], Any]) -> float:
    """Return the wall time of one call, including the work that it started on a GPU."""
    start = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(tasks: Mapping[str, Callable[[int], Any]], turns: int, warm_up: int = 1) -> dict[str, Samples]:
    """Run each task once in each turn, and return the seconds that each took.

    Args:
        tasks: functions of the turn's index, by name.
        turns: samples of each task.
        warm_up: turns before these that do not count; indices begin with them.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for index in range(warm_up + turns):
        for name, task in tasks.items():
            times[name].append(seconds(lambda task=task, index=index: task(index)))
    return {name: Samples(tuple(values[warm_up:]), "s") for name, values in times.items()}


@contextmanager
def same_threads() -> Iterator[None]:
    """Restore the number of PyTorch's threads after the block, whatever a part set."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
