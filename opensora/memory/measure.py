"""Free CPU memory, within the limits of the process's control groups, and the memory that stages really took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # Source: man 5 proc, /proc/pid/clear_refs


class StageMeter:
    """Measures the peak memory of stages; a stage that is entered again keeps its largest value.

    Make it before anything is loaded. On CUDA, the peak is what PyTorch's tensors held at most
    (`max_memory_allocated`), the very number that is estimated. The CPU has no such counter: there the peak is the
    largest resident memory of the process during a stage, less what was resident when the meter was made. That is
    Python, PyTorch and the libraries, which no setting of the run changes (0.4 GB once the estimate was made). What a
    stage leaves behind counts in later ones, including freed blocks that the C library keeps: tens of MB that come and
    go.

    Args:
        device: whose memory is measured.
        process: folder with the process's `status` and `clear_refs`.

    Attributes:
        stages: name -> bytes, in the order in which stages first ended; on the CPU, empty unless
            the system is Linux.
        baseline: bytes that were held when the meter was made, not part of `stages`; None if not known.
        is_upper_bound: whether the peak could not be reset, so that a stage has the largest value up to its end.
    """

    def __init__(self, device: torch.device, process: Path = _PROCESS):
        self.stages: dict[str, int] = {}
        self.is_upper_bound = False
        self._device = device
        self._process = process
        self.baseline = 0 if device.type == "cuda" else self._status("VmRSS:")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs within the block, even if it fails."""
        self._reset()
        try:
            yield
        finally:
            peak = self._peak()
            if peak is not None and self.baseline is not None:
                self.stages[name] = max(self.stages.get(name, 0), peak - self.baseline)

    def as_dict(self) -> dict[str, Any] | None:
        """Return `stages` and what its numbers mean, for a sample's JSON file; None if nothing was measured."""
        if not self.stages:
            return None
        kind = "allocated" if self._device.type == "cuda" else "resident above baseline"
        bound = {"upper_bound": True} if self.is_upper_bound else {}
        return {"what": kind, "unit": "bytes", **bound, "baseline": self.baseline, "stages": dict(self.stages)}

    def line(self) -> str | None:
        """Return the closing line of a run; None if nothing was measured."""
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
        return self._status("VmHWM:")

    def _status(self, key: str) -> int | None:
        """Return the bytes that the process's status has under `key`; None if it has none."""
        try:
            lines = (self._process / "status").read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), None)


def free_in_cpu_memory(root: Path = Path("/")) -> int:
    """Return the bytes that new allocations can take without swapping or being killed.

    That is what the machine has available, or less if a control group (version 2) around the process has less left of
    its limit, as in a container. Page cache that is given back before a process is killed counts as left.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    left = [psutil.virtual_memory().available]
    for group in _control_groups(root):
        limit, usage = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and usage is not None:
            reclaimable = _reclaimable(group / "memory.stat")
            left.append(max(0, limit - usage + min(reclaimable, usage)))
    return min(left)


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's control group and of all groups around it, up to the one that is mounted.

    In a container, the mounted group is often the process's own, while its path is the one on the host; folders that
    do not exist are simply found without a limit.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield root.joinpath("sys/fs/cgroup", *parts[:depth])


def _number(file: Path) -> int | None:
    """Read the number in a file; return None for "max", which is no limit, and if there is no such file."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(stat: Path) -> int:
    """Read the bytes of inactive page cache from a group's `memory.stat`."""
    try:
        rows = dict(line.split(maxsplit=1) for line in stat.read_text(encoding="ascii").splitlines())
        return int(rows["inactive_file"])
    except (OSError, ValueError, KeyError):
        return 0


def size_text(nbytes: int) -> str:
    """Format bytes as GB (1e9 bytes) with two decimals, or as MB below 0.01 GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"
