"""Memory does not grow with the number of videos that one process makes."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

import pytest
import torch

from opensora.pipeline import SamplingPipeline

STATUS = Path("/proc/self/status")
# 7 kB a video; the latents of one are 5 kB, its frames 0.2 MB. Of 500 videos, the last 450 added less than 0.1 MB.
GROWTH = 1_000_000  # bytes


def resident_bytes(trim) -> int:
    """What is resident once the C library has given back what was freed.

    It keeps freed blocks as it sees fit: without this the same process goes up and down by 20 MB and more, without a
    trend, and both a leak and its absence would pass or fail by chance.
    """
    gc.collect()
    trim(0)
    row = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(row.split()[1]) * 1024


def tensors() -> tuple[int, int]:
    """Number and bytes of all storages that Python knows of."""
    found = [value.untyped_storage() for value in gc.get_objects() if isinstance(value, torch.Tensor)]
    storages = {storage.data_ptr(): storage.nbytes() for storage in found}
    return len(storages), sum(storages.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # gc meets objects that warn when they are looked at
def test_200_videos_take_no_more_memory_than_50(mini):
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None or not STATUS.is_file():
        pytest.skip("needs Linux with glibc, which says what is resident and gives back what is free")
    pipe = SamplingPipeline.from_config(mini(num_sampling_steps=4))
    resident, alive = {}, {}
    for number in range(1, 201):
        pipe([f"a red star moving right, take {number}"], seed=number, progress=False)
        if number in (50, 100, 200):
            resident[number] = resident_bytes(trim)
            alive[number] = tensors()
    assert alive[50] == alive[100] == alive[200]
    assert resident[200] - resident[50] < GROWTH, resident
