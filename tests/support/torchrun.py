"""Starting several processes that belong together, by torchrun as users do, or at once by its variables."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import warm_python
from tests.support.warm_python import ROOT, THREADS, WarmProcess

PATIENCE = 240.0  # seconds; on a busy machine imports alone take a minute


def start_together(*commands: Sequence[str | Path], machines: bool = False) -> list[WarmProcess]:
    """A process for each command, with the variables that torchrun gives, and without an agent to watch over them.

    With ``machines``, each is on a machine of its own.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
    return [
        warm_python.start(
            command,
            RANK=str(rank),
            LOCAL_RANK="0" if machines else str(rank),
            GROUP_RANK=str(rank) if machines else "0",
            **shared,
        )
        for rank, command in enumerate(commands)
    ]


def run(processes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script in several processes to the end; their outputs one after the other, the worst exit code."""
    started = start_together(*[arguments] * processes)
    try:
        outputs = [process.communicate(PATIENCE) for process in started]
    finally:
        kill_all(started)
    out, err = ("".join(texts) for texts in zip(*outputs, strict=True))
    code = max((process.returncode for process in started), key=abs)
    return subprocess.CompletedProcess([str(argument) for argument in arguments], code, out, err)


def start_agent(processes: int, arguments: Sequence[str | Path], *options: str) -> subprocess.Popen[str]:
    """Start ``torchrun`` of this interpreter; without options, on this machine alone and on a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*command, *(options or ["--standalone"]), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_all(processes: Sequence[WarmProcess | subprocess.Popen[str]]) -> None:
    """Kill those that still run, with their children."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
