"""The sizes and lengths that the mini model is trained at: every batch comes from one bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mini.world.paths import FRAMES, SIZE


@dataclass(frozen=True)
class Bucket:
    """Clips of one size and length.

    Attributes:
        frames: pixel frames.
        size: height and width in pixels.
        clips: how many are encoded for training.
        batch: clips per process and step, so that every bucket's batch has about as many tokens.
        share: of the training steps.
    """

    frames: int
    size: tuple[int, int]
    clips: int
    batch: int
    share: float

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.frames}x{height}x{width}"


BUCKETS = (
    Bucket(FRAMES, SIZE, clips=8000, batch=32, share=0.58),
    Bucket(2 * FRAMES, SIZE, clips=1200, batch=16, share=0.12),
    Bucket(3 * FRAMES, SIZE, clips=900, batch=11, share=0.08),
    Bucket(FRAMES, (64, 96), clips=1200, batch=21, share=0.10),
    Bucket(FRAMES, (96, 64), clips=1200, batch=21, share=0.10),
    Bucket(1, SIZE, clips=800, batch=96, share=0.02),
)


def scaled(scale: float, smallest: int = 64) -> Iterator[tuple[Bucket, int]]:
    """Yield every bucket with its number of clips for a trial run of `scale` times the data."""
    for bucket in BUCKETS:
        yield bucket, max(smallest, round(bucket.clips * scale))


def pick_bucket(rng: np.random.Generator) -> Bucket:
    """Draw a bucket with its share."""
    return BUCKETS[rng.choice(len(BUCKETS), p=[bucket.share for bucket in BUCKETS])]
