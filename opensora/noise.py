"""Where a video begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_noise(seeds: Sequence[int], shape: Sequence[int], loop: int = 0) -> Tensor:
    """One seed, one noise of ``shape``, (B, *shape): drawn on the CPU, so that it is the same on every device.

    Args:
        loop: which clip of a long video; every clip goes on in its video's stream.
    """
    noise = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        for _ in range(loop + 1):
            drawn = torch.randn(tuple(shape), generator=generator)
        noise.append(drawn)
    return torch.stack(noise)
