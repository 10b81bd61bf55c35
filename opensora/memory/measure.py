"""What the stages of a run really took.

On CUDA that is what PyTorch's tensors held at most (``max_memory_allocated``), the very number that is
estimated. The CPU has no such counter. There the largest resident memory of the process during a stage is read, and
what was resident before the first model was loaded is taken off: Python, PyTorch and the libraries, which no setting
of the run changes (0.4 GB once the estimate was made). What a stage leaves behind counts in the next ones, among it
freed blocks that the C library keeps: tens of MB that come and go.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from opensora.memory.free import size_text

try:
    import resource
except ImportError:  # Windows
    resource = None

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # Source: man 5 proc, /proc/pid/clear_refs


class StageMeter:
    """Measures stages; made before anything is loaded. A stage that is entered again keeps its largest value.

    Args:
        device: the one that is measured.
        process: folder with the process's ``status`` and ``clear_refs``.

    Attributes:
        stages: name -> bytes, in the order in which stages were first left. Nothing where a system does not say.
        baseline: bytes that were held when the meter was made, not part of ``stages``; None where not known.
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
        """For a sample's JSON file: ``stages`` and what its numbers mean; None if nothing was measured."""
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
