"""Time tasks that are to be compared in turns, beside a yardstick that shows how fast the machine was at that moment.

`torch.utils.benchmark` times one statement after the other, in blocks and with warm-up runs of its own: whatever slows
the machine meanwhile hits only one of them, and a whole command, or the first compiled step, would run three times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F

from bench.timing.record import Samples

# The yardstick's workload. A change makes new files incomparable with old ones: raise record.FORMAT, too.
_ROWS, _TOKENS, _WIDTH, _HEADS = 2, 64, 128, 4


class Length(IntEnum):
    """The length of a yardstick, in transformer layers of about 0.7 ms on a CPU.

    It must be about as long as the task it is compared with: on a busy machine, tasks shorter than the scheduler's time
    slice (a few milliseconds) mostly run undisturbed, while longer ones take turns with other processes.
    """

    BRIEF = 1
    STEP = 12
    VIDEO = 240
    PROCESS = 1200


class Yardstick:
    """A fixed workload of PyTorch operators that no commit of this repository changes.

    It has small operators of a transformer, like the mini model's steps. Whatever slows the machine (a lower clock,
    other processes) slows both, so that times as multiples of the yardstick's can be compared between runs under
    different loads. A disturbance that hits only one of them (of memory bandwidth, of the disk) remains.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)

        def matrix(*shape: int) -> torch.Tensor:
            return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(device)

        self._hidden_states = matrix(_ROWS, _TOKENS, _WIDTH)
        self._qkv, self._out = matrix(3 * _WIDTH, _WIDTH), matrix(_WIDTH, _WIDTH)
        self._up, self._down = matrix(4 * _WIDTH, _WIDTH), matrix(_WIDTH, 4 * _WIDTH)

    def milliseconds(self, length: Length) -> float:
        """Run the workload and return how long it takes now."""
        return 1000 * seconds(lambda: self._work(length))

    @torch.no_grad()
    def _work(self, layers: int) -> torch.Tensor:
        h = self._hidden_states
        for _ in range(layers):
            x = F.layer_norm(h, (_WIDTH,))
            heads = F.linear(x, self._qkv).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
            h = h + F.linear(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2), self._out)
            h = h + F.linear(F.gelu(F.linear(F.layer_norm(h, (_WIDTH,)), self._up)), self._down)
        return h


@dataclass(frozen=True)
class Task:
    """Something to be timed: a function of the turn's index, and the yardstick that takes about as long."""

    run: Callable[[int], Any]
    length: Length


@dataclass(frozen=True)
class Turns:
    """Seconds of every task and milliseconds of the yardsticks, one value per turn."""

    seconds: dict[str, tuple[float, ...]]
    yardsticks: dict[Length, tuple[float, ...]]
    lengths: dict[str, Length]

    def __getitem__(self, name: str) -> Samples:
        """Return a task's seconds."""
        return self.beside(self.seconds[name], "s", self.lengths[name])

    def beside(self, values: Iterable[float], unit: str, length: Length) -> Samples:
        """Return other times that were taken in the same turns, beside the yardstick of that length."""
        return Samples(tuple(values), unit, self.yardsticks[length])


def seconds(task: Callable[[], Any]) -> float:
    """Return the wall time of one call, including the work that it started on a GPU."""
    start = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(
    tasks: Mapping[str, Task], turns: int, yardstick: Yardstick, warm_up: int = 1, lengths: Iterable[Length] = ()
) -> Turns:
    """Run the yardsticks and each task once in each turn, so that a slower machine slows all alike.

    Args:
        turns: samples of each task.
        warm_up: turns before these that do not count; indices begin with them.
        lengths: of yardsticks that are needed besides those of the tasks.
    """
    wanted = sorted({*lengths, *(task.length for task in tasks.values())})
    times: dict[str, list[float]] = {name: [] for name in tasks}
    yardsticks: dict[Length, list[float]] = {length: [] for length in wanted}
    for index in range(warm_up + turns):
        for length in wanted:
            yardsticks[length].append(yardstick.milliseconds(length))
        for name, task in tasks.items():
            times[name].append(seconds(lambda run=task.run, index=index: run(index)))
    return Turns(
        {name: tuple(values[warm_up:]) for name, values in times.items()},
        {length: tuple(values[warm_up:]) for length, values in yardsticks.items()},
        {name: task.length for name, task in tasks.items()},
    )


@contextmanager
def same_threads() -> Iterator[None]:
    """Restore the number of PyTorch's threads after the block, whatever a part set."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
