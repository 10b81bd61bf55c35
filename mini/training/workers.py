"""Train one model in several small processes, each with its share of the batch, or in one process on a GPU.

On a few CPU cores several processes are faster and steadier than one process with several OpenMP threads, whose threads
spin while they wait for each other.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from adacache.atomic import atomic_path
from mini.errors import TrainingError

GPU_LOAD = 16
PROBLEM = "problem.txt"  # what a process wants to be told in one sentence


class _Made(Dataset):
    """Items that are made when they are asked for."""

    def __init__(self, make: Callable[[int], Any], indices: Sequence[int]):
        self.make, self.indices = make, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return self.make(self.indices[position])


@dataclass(frozen=True)
class Workers:
    """One process's view of the group.

    Attributes:
        rank: index of this process.
        count: number of processes.
        device: where this process trains, 'cpu' or 'cuda'.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def load(self) -> int:
        """How many batches of a CPU process this process takes as one: on a GPU, small batches would leave it idle."""
        return GPU_LOAD if self.device == "cuda" else 1

    @property
    def small_load(self) -> int:
        """The same for batches that are large already, such as those of pixels."""
        return max(1, self.load // 4)

    def autocast(self) -> torch.autocast:
        """Compute in bfloat16 where the machine has instructions for it; elsewhere it is ten times slower."""
        is_fast = self.device == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16", False)
        return torch.autocast(self.device, torch.bfloat16, enabled=is_fast)

    @property
    def image_layout(self) -> torch.memory_format:
        """Layout of the weights of image networks; on CUDA, group norm copies channels-last tensors."""
        return torch.contiguous_format if self.device == "cuda" else torch.channels_last

    @property
    def renderers(self) -> int:
        """Processes that render clips for this one; 0 for none beside it."""
        return max(1, os.cpu_count() - 2) if self.device == "cuda" else 0

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

    def agree(self, value: float) -> float:
        """Return the first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    def wait(self) -> None:
        """Wait until every process gets here."""
        if self.count > 1:
            dist.barrier()

    def render(self, make: Callable[[int], Any], indices: Sequence[int], batch: int, name: str) -> Iterator[Any]:
        """Yield batches of `make(index)`, collated by torch, with a progress bar."""
        loader = DataLoader(_Made(make, indices), batch, num_workers=self.renderers)
        yield from tqdm(loader, desc=name, disable=not self.is_main, mininterval=5)

    def share(self, total: int) -> range:
        """Return the indices of this process's part of `total` items."""
        return range(self.rank, total, self.count)


def _end_with_parent() -> None:
    """End with the parent: a killed command's processes must not go on writing into the next attempt's folder."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _start(
    rank: int, count: int, device: str, folder: str, task: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # every stage has few shapes
    if count > 1:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting_point", rank=rank, world_size=count)
    try:
        task(Workers(rank, count, device), *arguments)
    except TrainingError as error:
        if count == 1:
            raise
        with atomic_path(Path(folder, PROBLEM)) as temporary:
            temporary.write_text(str(error))
        sys.exit(1)
    finally:
        if count > 1:
            dist.destroy_process_group()


def run_workers(count: int, device: str, task: Callable[..., None], *arguments: Any) -> None:
    """Call `task(workers, *arguments)` in `count` processes and wait for them; if one fails, all end.

    Raises:
        TrainingError: a process raised it.
    """
    if count == 1:
        _start(0, 1, device, "", task, arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            torch.multiprocessing.spawn(_start, args=(count, device, folder, task, arguments), nprocs=count)
        except ProcessException:
            problem = Path(folder, PROBLEM)
            if problem.is_file():
                raise TrainingError(problem.read_text()) from None
            raise
