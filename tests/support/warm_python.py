"""Commands as processes of their own that begin at once: forks of an interpreter that has imported everything.

Importing torch, diffusers and transformers takes five seconds; most commands that tests start run for less.
``run`` and ``start`` take a Python command (script and arguments) and behave as those of ``subprocess`` do.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
MAX_REQUEST = 1 << 20


class WarmProcess:
    """A command that runs, as ``subprocess.Popen`` shows it; ``pid`` leads a session of its own."""

    def __init__(self, arguments: Sequence[str], status: IO[str], out: IO[str], err: IO[str]) -> None:
        self.args = arguments
        self.pid = int(status.readline())
        self.returncode: int | None = None
        self._status, self._out, self._err = status, out, err
        os.set_blocking(status.fileno(), False)

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        if self.returncode is None and (line := self._status.readline()):
            self.returncode = int(line)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; standard output and errors."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        texts = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read())
        return texts[0], texts[1]

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process, not to its children."""
        if self.poll() is None:
            os.kill(self.pid, signum)


def start(arguments: Sequence[str | Path], cwd: Path = ROOT, **environment: str) -> WarmProcess:
    """Start a script with arguments; ``environment`` is added to that of this process."""
    arguments = [str(argument) for argument in arguments]
    variables = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT), **environment}
    # Files, not pipes: nobody need read them while the command runs.
    out, err = (tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") for _ in range(2))  # noqa: SIM115
    reading, writing = os.pipe()
    request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environment": variables}).encode()
    socket.send_fds(_interpreter(), [request], [writing, out.fileno(), err.fileno()])
    os.close(writing)
    return WarmProcess(arguments, os.fdopen(reading, "r"), out, err)


def run(
    arguments: Sequence[str | Path], cwd: Path = ROOT, timeout: float = 240.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; what is left of it after ``timeout`` seconds is killed, which fails the test."""
    process = start(arguments, cwd, **environment)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"it did not end: {out[-2000:]} {err[-4000:]}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@cache
def _interpreter() -> socket.socket:
    """The one interpreter that a test process forks from; it ends with it, as its socket closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
    subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        cwd=ROOT,
        env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    return ours


def serve(requests: socket.socket) -> None:
    """Fork a process for every request, until nobody can ask any more."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not request:
            return
        if os.fork() == 0:  # a parent for the command, which waits for it and tells its end
            requests.close()
            status, out, err = descriptors
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child == 0:
                os.close(status)
                os.dup2(out, 1)
                os.dup2(err, 2)
                become(**json.loads(request))
                return
            os.write(status, f"{child}\n".encode())
            _, ended = os.waitpid(child, 0)
            with contextlib.suppress(BrokenPipeError):
                os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Be what ``python ARGUMENTS`` would be."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for signum, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        signal.signal(signum, handler)
    sys.argv[:] = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the parents of commands
    import opensora.acceleration.processes
    import opensora.cli.command
    import opensora.cli.parallel
    import opensora.cli.text_stage
    import opensora.cli.worker
    import opensora.pipeline  # noqa: F401
    from opensora.config.loading import load_config
    from opensora.load_models import check_models

    check_models(load_config("configs/mini/sample.py", {}))  # makes torch and diffusers import what they put off
    serve(socket.socket(fileno=int(sys.argv[1])))
