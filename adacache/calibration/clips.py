"""Which prompts a calibration searches on, and which it measures on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Clip:
    """A prompt and the seed of its noise."""

    prompt: str
    seed: int


def split_clips(
    prompts: Sequence[str], num_search: int, num_held_out: int, seed: int
) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """Clips to search on and clips to measure on; no prompt is in both.

    With fewer prompts than clips, prompts come again with other seeds: every clip has a seed of its own.

    Raises:
        ValueError: there are fewer than two different prompts.
    """
    different = list(dict.fromkeys(prompts))
    if len(different) < 2:
        raise ValueError(
            "a calibration needs at least two different prompts, one to search schedules on and one to measure them"
        )
    share = round(len(different) * num_search / (num_search + num_held_out))
    border = max(1, min(num_search, len(different) - 1, share))
    search, held_out = different[:border], different[border:]
    clips = [Clip(search[i % len(search)], seed + i) for i in range(num_search)]
    measured = [Clip(held_out[i % len(held_out)], seed + num_search + i) for i in range(num_held_out)]
    return tuple(clips), tuple(measured)
