"""Write the files of one batch in a thread while the next batch is sampled."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from opensora.errors import message_for_the_user

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """A thread that runs jobs one after the other; each writes the files of a sample and records them.

    It is used in a `with` block, which waits for all jobs even if an error or an interrupt ends it, so that everything
    sampled by then is kept.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._jobs: deque[Future[None]] = deque()  # not waited for yet

    def begin(self, jobs: Iterable[Callable[[], None]]) -> None:
        """Begin the jobs of a batch, and return once those of the batch before are done.

        So no more than one batch's frames are held while the next batch is sampled.

        Raises:
            Exception: whatever a job of the batch before raised.
        """
        former = len(self._jobs)
        # Before the wait, which an interrupt may end: this batch is sampled and must not be lost.
        self._jobs.extend(self._thread.submit(job) for job in jobs)
        for _ in range(former):
            self._wait_for_next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all jobs; if several fail, the first error is raised and the others are logged.

        Raises:
            Exception: whatever a job raised.
        """
        first = error
        try:
            while self._jobs:
                try:
                    self._wait_for_next()
                except Exception as other:
                    if first is not None:
                        _log(other)
                    first = first or other
        finally:
            # A second interrupt leaves jobs behind: the running one is finished, the others are dropped.
            self._thread.shutdown(cancel_futures=True)
        if error is None and first is not None:
            raise first

    def _wait_for_next(self) -> None:
        try:
            self._jobs[0].result()
        except Exception:
            self._jobs.popleft()
            raise
        self._jobs.popleft()  # not where the wait was interrupted


def _log(error: Exception) -> None:
    """Log why a sample was not written when another error is raised; a bug is logged with its traceback."""
    message = message_for_the_user(error)
    logger.warning("WARNING a sample could not be written: %s", message or error, exc_info=None if message else error)
