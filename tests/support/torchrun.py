"""Starting several processes as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds; on a busy machine imports alone take a minute


def torchrun_command(processes: int, arguments: Sequence[str | Path], options: Sequence[str] = ()) -> list[str]:
    """``torchrun`` of this interpreter; without options, on this machine alone and on a free port."""
    options = options or ("--standalone",)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", *options]
    return [*command, *map(str, arguments)]


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in the repository, with its output as text."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(processes: int, *arguments: str | Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run to the end; whatever is left of it after ``PATIENCE`` is killed, which fails the test."""
    command = torchrun_command(processes, arguments, options)
    process = start(command)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"it did not end: {out[-2000:]} {err[-4000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)
