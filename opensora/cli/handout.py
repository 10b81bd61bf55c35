"""Rank 0's answers to the groups of processes: what to make next; and what it notes of what they made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opensora.cli.records import wanted_files
from opensora.cli.session import Session, read_result
from opensora.cli.worker import Task

FILES_SECONDS = 40.0  # that a file of another machine may take to be seen here


class Handout:
    """Rank 0's answers: which batch a group makes next, and the ledger's entries about what it made."""

    def __init__(self, session: Session, task: Task) -> None:
        self._session = session
        self._task = task
        self._next: Iterator[int] = iter(range(len(task.batches)))
        self._given: dict[tuple[int, int], int | None] = {}
        self._samples = {sample.stem: sample for sample in task.samples}
        self.handlers: dict[str, Callable[[int, Any], Any]] = {
            "next": self._next_batch,
            "made": self._made,
            "not made": self._not_made,
        }

    def _next_batch(self, rank: int, value: Sequence[int]) -> int | None:
        """The batch that a group makes in one of its turns, the same for all its processes; None after the last one."""
        group, turn = value
        if (group, turn) not in self._given:
            number = next(self._next, None)
            if number is not None:
                self._session.start(self._task.due(self._task.batches[number]))
            self._given[group, turn] = number
        return self._given[group, turn]

    def _made(self, rank: int, stem: str) -> None:
        sample, folder = self._samples[stem], self._task.folder
        wanted = wanted_files(stem, sample.config)
        there = _are_there(folder, wanted)
        result = read_result(folder, sample, wanted) if there else None
        if result is None:
            self._session.fail(stem, f"rank {rank} wrote files that rank 0 cannot read in {folder}")
        else:
            self._session.finish(sample, result)

    def _not_made(self, rank: int, value: Sequence[str]) -> None:
        self._session.fail(*value)


def _are_there(folder: Path, names: Sequence[str]) -> bool:
    """Whether files that another machine has written are seen here; network file systems take a while to tell."""
    deadline = time.monotonic() + FILES_SECONDS
    while not set(names) <= set(os.listdir(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
