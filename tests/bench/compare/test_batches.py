from __future__ import annotations

import numpy as np
import torch

from bench.compare import metrics as batches


def test_batches_hold_every_frame_once_with_channels_last(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_PIXELS", 2 * 4 * 5 + 1)  # two frames of 4 x 5
    frames = np.arange(5 * 4 * 5 * 3, dtype=np.uint16).astype(np.uint8).reshape(5, 4, 5, 3)
    pairs = list(batches.frame_batches(frames, 255 - frames))
    assert [len(batch) for batch, _ in pairs] == [2, 2, 1]
    joined = torch.cat([batch for batch, _ in pairs])
    assert joined.dtype == torch.float32 and np.array_equal(joined.permute(0, 2, 3, 1).numpy(), frames)
    assert all(torch.equal(batch + other, torch.full_like(batch, 255)) for batch, other in pairs)
    assert pairs[0][0].is_contiguous(memory_format=torch.channels_last)


def test_a_frame_larger_than_a_batch_goes_alone(monkeypatch):
    monkeypatch.setattr(batches, "BATCH_PIXELS", 3)
    assert [len(batch) for (batch,) in batches.frame_batches(np.zeros((2, 4, 4, 3), np.uint8))] == [1, 1]


def test_small_frames_get_one_thread_for_as_long_as_it_takes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    small, large = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 720, 1280, 3), np.uint8)
    torch.set_num_threads(2)
    try:
        with batches.threads_for(small):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with batches.threads_for(large):
            assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with batches.threads_for(small):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
