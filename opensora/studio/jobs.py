"""The studio's queue of jobs, which is kept in a file in the output folder."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from adacache.atomic import atomic_path
from opensora.errors import ConfigError, one_line

logger = logging.getLogger(__name__)

Status = Literal["waiting", "running", "done", "failed", "canceled"]
MAX_WAITING = 100
MAX_ENDED = 50  # ended jobs that are still listed; their videos are in the ledgers


@dataclass(frozen=True)
class Job:
    """One call of the sampling command.

    Attributes:
        arguments: arguments of `opensora sample`.
        title: the prompt, as the job's name on the page.
        folder: folder of the results, once the job has ended.
        error: why it failed, in one sentence.
        notes: warnings, one sentence each.
        ended: when it ended, as `time.time()` says; None as long as it has not.
    """

    id: str
    arguments: list[str]
    title: str
    status: Status = "waiting"
    submitted: str = ""
    folder: str | None = None
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    ended: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is waiting or running."""
        return self.status in ("waiting", "running")


class JobQueue:
    """Jobs in the order in which they were added, in a file.

    A new job counts only if it can be written down, a change of a job even if not. A job that was running when the
    studio ended waits again; the ledger of its folder says what is finished.

    Attributes:
        version: grows with every change.
    """

    def __init__(self, file: Path) -> None:
        self.version = 0
        self._file = file
        self._changing = threading.RLock()
        self._jobs: dict[str, Job] = {job.id: job for job in self._load()}

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._changing:
            return list(self._jobs.values())

    def open_or_latest(self, count: int) -> list[Job]:
        """Return the latest `count` jobs and all older ones that can still be canceled, the oldest first."""
        jobs = self.all()
        return [job for place, job in enumerate(jobs) if job.is_open or place >= len(jobs) - count]

    def get(self, id: str) -> Job | None:
        """Return a job, or None if it is not known."""
        return self._jobs.get(id)

    def next(self) -> Job | None:
        """Return the first waiting job, if there is one."""
        return next((job for job in self.all() if job.status == "waiting"), None)

    def add(self, arguments: Sequence[str], title: str) -> Job:
        """Add a job at the end, and return it.

        Raises:
            ConfigError: too many jobs are waiting.
            OSError: the file cannot be written.
        """
        with self._changing:
            if sum(job.status == "waiting" for job in self._jobs.values()) >= MAX_WAITING:
                raise ConfigError(f"{MAX_WAITING} jobs are waiting already; cancel some, or wait")
            job = Job(secrets.token_hex(6), list(arguments), title, submitted=time.strftime("%Y-%m-%dT%H:%M:%S"))
            self._save({**self._jobs, job.id: job})
            return job

    def change(self, id: str, **changes: object) -> Job:
        """Change attributes of a job, and return the new job.

        Raises:
            OSError: the file cannot be written; as long as the studio runs, the job is changed all the same.
        """
        with self._changing:
            job = replace(self._jobs[id], **changes)
            if not job.is_open and job.ended is None:
                job = replace(job, ended=time.time())
            self._jobs = {**self._jobs, id: job}
            self._save(self._jobs)
            return job

    def _save(self, jobs: dict[str, Job]) -> None:
        self.version += 1
        ended = sorted((job for job in jobs.values() if not job.is_open), key=lambda job: job.ended or 0.0)
        for job in ended[: max(0, len(ended) - MAX_ENDED)]:
            del jobs[job.id]
        with atomic_path(self._file) as temporary:
            content = {"format": 1, "jobs": [asdict(job) for job in jobs.values()]}
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self._jobs = jobs

    def _load(self) -> list[Job]:
        """Return the jobs in the file; a file that cannot be read is moved aside, and the queue starts empty."""
        if not self._file.is_file():
            return []
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            jobs = [Job(**entries) for entries in content["jobs"]]
        except (ValueError, KeyError, TypeError) as error:
            aside = self._file.with_suffix(".damaged")
            self._file.replace(aside)
            logger.warning("WARNING %s is damaged (%s); it was moved to %s", self._file, one_line(error), aside.name)
            return []
        return [replace(job, status="waiting") if job.status == "running" else job for job in jobs]
