"""Clips as float tensors, a few frames at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# Metrics hold some twenty float tensors of a batch's size: about 250 MB for one frame of 720p, which is a batch alone.
BATCH_PIXELS = 2**17


def frame_batches(*clips: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
    """The same frames of every clip (F, H, W, 3) uint8 as float tensors (f, 3, H, W) in 0..255, until all are through.

    The tensors keep the channels last in memory, which convolutions of few channels are several times faster with.
    """
    import torch

    count, height, width = clips[0].shape[:3]
    step = max(1, BATCH_PIXELS // (height * width))
    for start in range(0, count, step):
        yield tuple(torch.from_numpy(clip[start : start + step]).permute(0, 3, 1, 2).float() for clip in clips)


@contextmanager
def threads_for(clip: np.ndarray) -> Iterator[None]:
    """One thread while a clip of small frames (F, H, W, 3) is worked on: more would only wait for each other.

    OMP_NUM_THREADS, where the user has set it, is left alone.
    """
    import torch

    before = torch.get_num_threads()
    if np.prod(clip.shape[1:3]) < BATCH_PIXELS and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
