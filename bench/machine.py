"""The machine, the software and the commit that figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from opensora.device import check_device
from opensora.environment import installed_version
from opensora.files import REPO_ROOT

PACKAGES = ("diffusers", "transformers", "mmengine", "av", "numpy", "lpips", "opensora-adacache")


def machine_info(device: str | None) -> tuple[dict[str, Any], str | None]:
    """Return the machine with the versions of packages, and the commit, with a + if files differ from it.

    The GPU is None if `device` is not one.
    """
    machine = describe_machine()
    commit, dirty = machine.pop("commit"), machine.pop("dirty")
    machine.pop("date")
    chosen = check_device(device)
    machine["gpu"] = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
    return machine | {"packages": _versions()}, None if commit is None else commit + ("+" if dirty else "")


def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    return {name: number for name in PACKAGES if (number := installed_version(name)) is not None}


def describe_machine() -> dict[str, Any]:
    """Return processor, versions, PyTorch's threads, date, commit, and whether files differ from it (None: unknown)."""
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
    """Return what git prints; None without git, or outside a repository."""
    command = ["git", "--no-optional-locks", "-C", str(REPO_ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()
