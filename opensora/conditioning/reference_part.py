"""Which frames of a reference video have to be read and encoded for what a mask strategy takes of it."""

from __future__ import annotations

from dataclasses import dataclass

from opensora.conditioning.mask_strategy import parse_mask_strategy
from opensora.config.schema import SampleConfig
from opensora.config.video import frames_per_chunk, latents_per_chunk
from opensora.errors import ConfigError


@dataclass(frozen=True)
class ReferencePart:
    """Attributes:
    max_frames: to read, from the first one; None reads all.
    chunk: whole chunks of so many frames are counted from the last frame; None counts them from the first.
    """

    max_frames: int | None = None
    chunk: int | None = None

    def first_frame(self, num_frames: int) -> int:
        """Which of the frames that were read is the first one to be encoded."""
        return 0 if self.chunk is None or num_frames < self.chunk else num_frames % self.chunk


WHOLE = ReferencePart()


def part_of_reference(mask_strategy: str, reference: int, config: SampleConfig) -> ReferencePart:
    """What is needed of the video ``reference``, counted from 0; upstream encodes all of it, from its first frame.

    Raises:
        ConfigError: some entries count from its beginning and others from its end, which chunks cannot both fit.
    """
    entries = [entry for entry in parse_mask_strategy(mask_strategy) if entry.ref_id == reference]
    if config.compat or not entries:
        return WHOLE
    if all(entry.ref_start < 0 for entry in entries):
        return ReferencePart(chunk=frames_per_chunk(config))
    if any(entry.ref_start < 0 for entry in entries):
        raise ConfigError(
            f"mask strategy '{mask_strategy}' counts frames of reference {reference} both from its beginning and from "
            "its end; give the video twice, separated by ';', one for each"
        )
    latents = max(entry.ref_start + entry.length for entry in entries)
    # Alignment moves a start up by less than a chunk, and not into the last one.
    return ReferencePart(max_frames=(-(-latents // latents_per_chunk(config)) + 2) * frames_per_chunk(config))
