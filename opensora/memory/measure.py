"""What is free of the CPU's memory, within the limits of the process's control groups, and what stages really took."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # Source: man 5 proc, /proc/pid/clear_refs


class StageMeter:
    """Measures stages; made before anything is loaded. A stage that is entered again keeps its largest value.

    On CUDA that is what PyTorch's tensors held at most (`max_memory_allocated`), the very number that is estimated.
    The CPU has no such counter. There the largest resident memory of the process during a stage is read, and what was
    resident before the first model was loaded is taken off: Python, PyTorch and the libraries, which no setting of the
    run changes (0.4 GB once the estimate was made). What a stage leaves behind counts in the next ones, among it freed
    blocks that the C library keeps: tens of MB that come and go.

    Args:
        device: the one that is measured.
        process: folder with the process's `status` and `clear_refs`.

    Attributes:
        stages: name -> bytes, in the order in which stages were first left. Nothing where a system does not say.
        baseline: bytes that were held when the meter was made, not part of `stages`; None where not known.
        is_upper_bound: whether peaks could not be told apart, so that a stage has the largest value up to its end.
    """

    def __init__(self, device: torch.device, process: Path = _PROCESS):
        self.stages: dict[str, int] = {}
        self.is_upper_bound = False
        self._device = device
        self._process = process
        self.baseline = 0 if device.type == "cuda" else self._status("VmRSS:")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside of it, also when that fails."""
        self._reset()
        try:
            yield
        finally:
            peak = self._peak()
            if peak is not None and self.baseline is not None:
                self.stages[name] = max(self.stages.get(name, 0), peak - self.baseline)

    def as_dict(self) -> dict[str, Any] | None:
        """For a sample's JSON file: `stages` and what its numbers mean; None if nothing was measured."""
        if not self.stages:
            return None
        kind = "allocated" if self._device.type == "cuda" else "resident above baseline"
        bound = {"upper_bound": True} if self.is_upper_bound else {}
        return {"what": kind, "unit": "bytes", **bound, "baseline": self.baseline, "stages": dict(self.stages)}

    def line(self) -> str | None:
        """The closing line of a run; None if nothing was measured."""
        if not self.stages:
            return None
        at_most = "at most " if self.is_upper_bound else ""
        stages = ", ".join(f"{name} {at_most}{size_text(nbytes)}" for name, nbytes in self.stages.items())
        if self._device.type == "cuda":
            return f"memory, measured: {stages}"
        return f"memory, measured: {stages}, beside {size_text(self.baseline)} of Python and its libraries"

    def _reset(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            (self._process / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        except OSError:
            self.is_upper_bound = True

    def _peak(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._status("VmHWM:") or _largest_so_far()

    def _status(self, key: str) -> int | None:
        """A number of the process's status; None where there is none."""
        try:
            lines = (self._process / "status").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def _largest_so_far() -> int | None:
    if resource is None:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


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
        root: folder that holds `proc` and `sys`.
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
