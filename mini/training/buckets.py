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


WIDE, TALL = (128, 192), (192, 128)
BUCKETS = (
    Bucket(FRAMES, SIZE, clips=20000, batch=32, share=0.50),
    Bucket(1, SIZE, clips=20000, batch=96, share=0.20),
    Bucket(2 * FRAMES, SIZE, clips=2000, batch=16, share=0.08),
    Bucket(3 * FRAMES, SIZE, clips=1000, batch=10, share=0.06),
    Bucket(FRAMES, WIDE, clips=2000, batch=21, share=0.08),
    Bucket(FRAMES, TALL, clips=2000, batch=21, share=0.08),
)


def scaled(scale: float, smallest: int = 16) -> Iterator[tuple[Bucket, int]]:
    """Yield every bucket with its number of clips for a trial run of `scale` times the data."""
    for bucket in BUCKETS:
        yield bucket, max(smallest, round(bucket.clips * scale))


def pick_bucket(rng: np.random.Generator) -> Bucket:
    """Draw a bucket with its share."""
    return BUCKETS[rng.choice(len(BUCKETS), p=[bucket.share for bucket in BUCKETS])]
