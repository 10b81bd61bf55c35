"""How close the clips of a cached run are to those of an uncached one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from adacache.trace import Trace

PEAK = 255.0
EQUAL_DB = 80.0  # PSNR that equal clips count as


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of uint8 clips of one shape; equal ones count as 80 dB."""
    error = np.mean((frames.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(PEAK**2 / max(error, PEAK**2 / 10 ** (EQUAL_DB / 10))))


@dataclass(frozen=True)
class Quality:
    """Frames of some clips, their PSNR in dB against others, and the traces of their runs (empty without a cache)."""

    frames: list[np.ndarray]
    psnr: list[float]
    traces: list[Trace]

    @classmethod
    def of(cls, frames: Sequence[np.ndarray], reference: Sequence[np.ndarray], traces: Sequence[Trace] = ()) -> Quality:
        """Measure `frames` (one (F, H, W, 3) uint8 array per clip) against `reference`."""
        return cls(list(frames), [psnr(a, b) for a, b in zip(frames, reference, strict=True)], list(traces))

    def against(self, reference: Sequence[np.ndarray]) -> Quality:
        """Measure the same frames against others."""
        return Quality.of(self.frames, reference, self.traces)

    @property
    def mean(self) -> float:
        """Mean PSNR in dB."""
        return float(np.mean(self.psnr))

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 for a single clip, for which it is unknown."""
        return float(np.std(self.psnr, ddof=1) / len(self.psnr) ** 0.5) if len(self.psnr) > 1 else 0.0

    @property
    def reused_cost(self) -> float:
        """Median time of a reused step over that of a computed one."""
        records = [record for trace in self.traces for record in trace.records]
        reused = median(record.milliseconds for record in records if not record.computed)
        return reused / median(record.milliseconds for record in records if record.computed)
