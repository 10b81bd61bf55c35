"""Runs the jobs of a queue one after the other in a separate process, which may fail without the studio."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opensora.errors import one_line
from opensora.studio.jobs import Job, JobQueue

logger = logging.getLogger(__name__)

GRACE_SECONDS = 20.0  # for a canceled job to end by itself; then its process is killed
WORKER = (sys.executable, "-m", "opensora.studio.worker")
_PACKAGES = str(Path(__file__).resolve().parents[2])  # the folder that contains opensora


def environment() -> dict[str, str]:
    """Return the variables of a process that finds this package from any working directory."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))}


@dataclass(frozen=True)
class Live:
    """What the worker is doing now.

    Attributes:
        job: id of the current job; None if there is none.
        phase: what happens, in words.
        computed: whether each finished step of the current video was computed.
        preview: data URI of a picture of the unfinished video.
        decoded: whether the autoencoder decoded the preview; if not, it shows latents as colors.
        version: grows with every change.
    """

    job: str | None = None
    phase: str = ""
    num_steps: int = 0
    computed: tuple[bool, ...] = ()
    preview: str = ""
    decoded: bool = False
    version: int = 0


class Engine:
    """A thread that passes the jobs of a queue to a worker process, and starts a new process if that one ends.

    Args:
        log: file for what the worker prints.
        command: command that starts the worker.
        grace: seconds that a canceled job has to end by itself.
    """

    def __init__(
        self, queue: JobQueue, log: Path, command: Sequence[str] = WORKER, grace: float = GRACE_SECONDS
    ) -> None:
        self.queue = queue
        self.live = Live()
        self._log = log
        log.write_text("")
        self._command = list(command)
        self._grace = grace
        self._process: subprocess.Popen[str] | None = None
        self._canceled: set[str] = set()
        self._changing = threading.Lock()  # held while a job goes from waiting to running, or is canceled
        self._showing = threading.Lock()  # held while `live` changes
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="studio engine", daemon=True)
        self._thread.start()

    def submit(self, arguments: Sequence[str], title: str) -> Job:
        """Add a job to the queue, and return it.

        Raises:
            ConfigError: too many jobs are waiting.
        """
        job = self.queue.add(arguments, title)
        self._wake.set()
        return job

    def cancel(self, id: str) -> None:
        """Cancel a job: a waiting one at once, a running one after its current step."""
        with self._changing:
            job = self.queue.get(id)
            if job is None or not job.is_open:  # it may have ended meanwhile
                return
            if job.status == "waiting" and self.live.job != id:
                self.queue.change(id, status="canceled")
            self._canceled.add(id)
        if self.live.job == id:
            self._update(id, phase="canceling after this step")
            with contextlib.suppress(OSError, ValueError):
                self._send({"cancel": id})
            patience = threading.Timer(self._grace, self._kill_if_running, (id,))
            patience.daemon = True
            patience.start()

    def close(self) -> None:
        """End the worker; the job it was running waits for the next start."""
        self._is_closed = True
        self._wake.set()
        self._kill()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        with contextlib.suppress(OSError):
            self._running_process()  # it imports torch while the first prompt is typed
        while not self._is_closed:
            self._wake.clear()
            job = self.queue.next()
            if job is None:
                self._wake.wait()
                continue
            try:
                self._make(job)
            except OSError as error:
                self._fail(job, f"its state could not be written: {(error.strerror or one_line(error)).lower()}")
            except Exception:
                logger.exception("the studio could not make job %s", job.id)
                self._fail(job, "a bug of the studio; its terminal has the trace")
            self._show(None)

    def _fail(self, job: Job, reason: str) -> None:
        """End a job that was not made, even if that cannot be written down."""
        if (known := self.queue.get(job.id)) and known.is_open:
            self._record(job.id, status="failed", error=reason)

    def _record(self, id: str, **changes: Any) -> None:
        """Change a job; it counts while the studio runs, even if it cannot be written down."""
        try:
            self.queue.change(id, **changes)
        except OSError as error:
            logger.warning("WARNING the queue of the studio cannot be written: %s", error)

    def _make(self, job: Job) -> None:
        with self._changing:
            if job.id in self._canceled:
                return
            self._show(job.id, "starting")
            self.queue.change(job.id, status="running", error=None, notes=[])
        for event in self._events(job):
            if self._take(job.id, event):
                return
        self._kill()
        if self._is_closed:
            return  # the job stays in the queue
        if job.id in self._canceled:
            self._record(job.id, status="canceled")
        else:
            error = f"the process that made it ended unexpectedly; {self._log} has its last words"
            self._record(job.id, status="failed", error=error)

    def _events(self, job: Job) -> Iterator[dict[str, Any]]:
        """Send a job to the worker, and yield its events until it ends or says what is no event."""
        try:
            process = self._running_process()
            self._send({"job": job.id, "arguments": job.arguments})
            if job.id in self._canceled:  # while the process started; the one before may have got the message
                self._send({"cancel": job.id})
            for line in process.stdout:
                yield json.loads(line)
        except (OSError, ValueError) as error:
            logger.warning("WARNING the worker of the studio: %s", error)

    def _take(self, id: str, event: dict[str, Any]) -> bool:
        """Record an event of the worker, and return whether the job is over."""
        if event.get("job") != id:
            return False
        kind = event["event"]
        if kind == "step":
            before = self.live.computed if event["index"] else ()
            preview = {name: event[name] for name in ("preview", "decoded") if name in event}
            is_last = event["index"] + 1 == event["num_steps"]
            phase = self.live.phase if id in self._canceled else "decoding" if is_last else "sampling"
            computed = (*before, event["computed"])
            self._update(id, computed=computed, num_steps=event["num_steps"], phase=phase, **preview)
        elif kind == "phase":
            self._update(id, phase=event["text"])
        elif kind == "note":
            self._record(id, notes=[*self.queue.get(id).notes, event["text"]])
        elif kind == "done":
            self._record(id, status="done", folder=event["folder"], error="; ".join(event["problems"]) or None)
        elif kind == "failed":
            self._record(id, status="failed", folder=event.get("folder"), error=event["text"])
        elif kind == "canceled":
            self._record(id, status="canceled")
        return kind in ("done", "failed", "canceled")

    def _show(self, *about: Any) -> None:
        with self._showing:
            self.live = Live(*about, version=self.live.version + 1)

    def _update(self, id: str, **changes: Any) -> None:
        """Change what is shown of a job, unless it is over: the page's thread cancels while the worker goes on."""
        with self._showing:
            if self.live.job == id:
                self.live = replace(self.live, version=self.live.version + 1, **changes)

    def _running_process(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._kill()
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    env=environment(),
                    start_new_session=True,  # Ctrl-C in the terminal goes to the studio alone, which ends the worker
                )
        return self._process

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is not None:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _kill_if_running(self, id: str) -> None:
        job = self.queue.get(id)
        if job is not None and job.status == "running" and not self._is_closed:
            self._kill()

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
