"""What the figures were measured on, and of."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from opensora.files import REPO_ROOT

# Two runs that differ in one of these differ in more than their commit.
DECISIVE = ("cpu", "cores", "gpu", "threads", "python", "torch")


def describe_machine() -> dict[str, Any]:
    """Processor, versions, threads of PyTorch, date, commit and whether files differ from it (None: not known)."""
    status = _git("status", "--porcelain")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": None if status is None else bool(status),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _git(*arguments: str) -> str | None:
    """What git prints; None without git, or outside of a repository."""
    command = ["git", "--no-optional-locks", "-C", str(REPO_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()
