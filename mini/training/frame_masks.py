"""Choose which latent frames of a training clip are given rather than generated.

Source: mask strategies of Open-Sora v1.2's training (`opensora/utils/train_utils.py`), and one more, in which the first
chunk of a longer clip is given, as extending a video does.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 5  # latent frames of one chunk of the autoencoder

# Strategy -> share of the masked clips. A single first frame and a first chunk are what the sampler mostly asks for.
STRATEGIES = {
    "image_head": 0.40,
    "chunk_head": 0.25,
    "image_tail": 0.05,
    "image_head_tail": 0.05,
    "image_random": 0.05,
    "quarter_head": 0.04,
    "quarter_tail": 0.04,
    "quarter_head_tail": 0.04,
    "interpolate": 0.04,
    "random": 0.04,
}


def random_frame_masks(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Draw masks (count, frames) bool by STRATEGIES, True where a latent frame is to be generated.

    A clip of one latent frame is always generated.
    """
    if frames == 1:
        return torch.ones(count, 1, dtype=torch.bool)
    weights = torch.tensor(list(STRATEGIES.values()))
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    names = list(STRATEGIES)
    return torch.stack([frame_mask(names[i], frames, generator) for i in chosen])


def frame_mask(strategy: str, frames: int, generator: torch.Generator) -> Tensor:
    """Draw one mask of a strategy, for a clip of at least `CHUNK` latent frames.

    Returns:
        (frames,) bool, with at least one frame given and one generated.
    """

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    generated = torch.ones(frames, dtype=torch.bool)
    quarter = number(1, max(1, frames // 4))
    if strategy == "chunk_head":
        # In a clip of one chunk there is nothing to extend; it gets a quarter instead.
        generated[: CHUNK if frames > CHUNK else quarter] = False
    elif strategy == "interpolate":
        generated[number(0, 1) :: 2] = False
    elif strategy == "random":
        generated = torch.rand(frames, generator=generator) > 0.1 + 0.8 * torch.rand((), generator=generator)
        if generated.all() or not generated.any():
            generated[number(0, frames - 1)] ^= True
    else:
        size = 1 if strategy.startswith("image") else quarter
        if "head" in strategy:
            generated[:size] = False
        if "tail" in strategy:
            generated[frames - size :] = False
        if "random" in strategy:
            start = number(0, frames - size)
            generated[start : start + size] = False
    return generated
