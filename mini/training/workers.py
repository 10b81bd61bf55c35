"""Train one model in several small processes: each computes gradients for its share of the batch.

On a few CPU cores this is faster and steadier than one process with several OpenMP threads, whose threads spin
while they wait for each other.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """One process's view of the group.

    Attributes:
        rank: index of this process.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor with its mean over the processes, in one exchange."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait until every process gets here."""
        if self.count > 1:
            dist.barrier()

    def share(self, total: int) -> range:
        """Return the indices of this process's part of `total` items."""
        return range(self.rank, total, self.count)


def _end_with_parent() -> None:
    """End with the parent: a killed command's processes must not go on writing into the next attempt's folder."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _start(rank: int, count: int, meeting_point: str, task: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if count > 1:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=count)
    try:
        task(Workers(rank, count), *arguments)
    finally:
        if count > 1:
            dist.destroy_process_group()


def run_workers(count: int, task: Callable[..., None], *arguments: Any) -> None:
    """Call `task(workers, *arguments)` in `count` processes and wait for them; if one fails, all end."""
    if count == 1:
        _start(0, 1, "", task, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = str(Path(folder) / "meeting_point")
        torch.multiprocessing.spawn(_start, args=(count, meeting_point, task, arguments), nprocs=count)
