"""Seconds and bytes of a piece of work; the one place that waits for the device to read a clock."""

from __future__ import annotations

import time
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Stopwatch:
    """Measures one piece of work at a time on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Seconds of a clock that goes on steadily, when all work given to the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def reset_peak(self) -> bool:
        """Begin a new measurement of memory; False where this machine cannot."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return True
        try:
            _RESET.write_text("5")  # Linux: sets the peak of the resident memory to what it is now
        except OSError:
            return False
        return True

    def peak_bytes(self) -> int | None:
        """Most bytes since ``reset_peak``: allocated by PyTorch on CUDA, resident of the process elsewhere."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            lines = _STATUS.read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        peaks = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        return next(peaks, None)
