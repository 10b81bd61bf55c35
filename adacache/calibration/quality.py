"""How close the clips of a cached run are to those of an uncached one, and what its reused steps cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np

from adacache.trace import Trace

PEAK = 255.0
EQUAL_DB = 80.0  # PSNR that equal clips count as


def psnr(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of uint8 clips of one shape, 80 dB at most, as for equal ones."""
    error = np.mean((frames.astype(np.float64) - reference) ** 2)
    return float(10 * np.log10(PEAK**2 / max(error, PEAK**2 / 10 ** (EQUAL_DB / 10))))


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean; 0 for a single value, for which it is unknown."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def reused_cost(traces: Sequence[Trace]) -> float:
    """Return the median time of a reused step over that of a computed one."""
    records = [record for trace in traces for record in trace.records]
    reused = median(record.milliseconds for record in records if not record.computed)
    return reused / median(record.milliseconds for record in records if record.computed)
