"""Memory does not grow with the number of videos that one process makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensora.pipeline import SamplingPipeline

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    row = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(row.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not say what is resident")
def test_200_videos_take_no_more_memory_than_50(mini):
    pipe = SamplingPipeline.from_config(mini(num_sampling_steps=4))
    resident = {}
    for number in range(1, 201):
        pipe([f"a red star moving right, take {number}"], seed=number, progress=False)
        if number in (50, 100, 200):
            resident[number] = resident_bytes()
    grown = resident[200] - resident[50]
    assert grown < GROWTH, resident


GROWTH = 5_000_000  # bytes: 33 kB a video; tensors of one video that were kept would be 0.2 MB and more
