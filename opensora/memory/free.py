"""What is free of the CPU's memory, within the limits of the process's control groups.

Torch is not needed for it: the doctor asks, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _CgroupFiles:
    """Where one version of control groups keeps its numbers."""

    mount: str
    limit: str
    usage: str
    reclaimable: str  # key of memory.stat: page cache that is given back before a process is killed


_V1 = _CgroupFiles("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _CgroupFiles("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")


def free_in_cpu_memory(root: Path = Path("/")) -> int | None:
    """Bytes that new allocations can take without swapping or being killed; None where the system does not say.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    known = [value for value in (_available(root / "proc/meminfo"), _free_in_cgroups(root)) if value is not None]
    return min(known) if known else None


def _available(meminfo: Path) -> int | None:
    """Of the whole machine."""
    try:
        kilobytes = _table(meminfo).get("MemAvailable:")
        if kilobytes is not None:
            return kilobytes * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _free_in_cgroups(root: Path) -> int | None:
    """Of the limits that containers and batch systems set: the least that any group around the process has left."""
    left = []
    for files, folder in _cgroups(root):
        limit, usage = _number(folder / files.limit), _number(folder / files.usage)
        if limit is not None and usage is not None:
            reclaimable = _table(folder / "memory.stat").get(files.reclaimable, 0)
            left.append(max(0, limit - usage + min(reclaimable, usage)))
    return min(left, default=None)


def _cgroups(root: Path) -> Iterator[tuple[_CgroupFiles, Path]]:
    """The process's group and all groups around it, up to the one that is mounted.

    In a container the mounted one is often the process's own, while its path is that on the host; folders that do
    not exist are simply found without a limit.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    paths = {_V1: "/", _V2: "/"}
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            paths[_V2] = path
        elif "memory" in controllers.split(","):
            paths[_V1] = path
    for files, path in paths.items():
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield files, root.joinpath(files.mount, *parts[:depth])


def _number(file: Path) -> int | None:
    """The number in a file; None for "max", which is no limit, and for no such file."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _table(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        rows = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def size_text(nbytes: int) -> str:
    """GB (1e9 bytes) with two decimals, or MB where that would be nothing."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"
