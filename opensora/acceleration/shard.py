"""A video's hidden states over several processes: frames of it between pairs of blocks, tokens of it along time.

Spatial attention looks at one frame at a time, temporal attention at one place of all frames. So each process has some
frames, and for the temporal block they are exchanged (all-to-all) for a part of the tokens of all frames, and back.
Each sends (P - 1) / P of its own part twice for a pair of blocks. Everything else works token by token. Any numbers of
frames and tokens will do: parts differ by one at most, and a process may have no frame at all.

Source of the exchange between the two attentions: Dynamic Sequence Parallelism, arXiv:2403.10266.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adacache.sites import Stream
from opensora.acceleration.channel import Channel, Purpose
from opensora.models.parts import even_parts


class VideoShard:
    """One process' part of a video of ``num_frames`` latent frames (``adacache.shard.Shard``, and the model's
    ``Sharding``).

    Args:
        sequence: the processes that split the frames; None where none do.
        video: all that share the video, the two guidance branches together.
        half: number of the guidance branch that this process takes; None where it takes both.
    """

    def __init__(self, sequence: Channel | None, video: Channel, num_frames: int, half: int | None = None) -> None:
        self._sequence = sequence
        self._video = video
        self.half = half
        self._frame_parts = even_parts(num_frames, sequence.size) if sequence else [slice(None)]
        self.frames = self._frame_parts[sequence.index if sequence else 0]
        self._num_frames = num_frames

    def sum(self, terms: Tensor) -> Tensor:
        """See ``Shard``."""
        return self._video.sum(terms, "schedule")

    def splits_frames(self, stream: Stream) -> bool:
        """See ``Shard``."""
        return self._sequence is not None and stream == "spatial"

    def all_frames(self, residual: Tensor) -> Tensor:
        """See ``Shard``; costs as much as half of the exchange for one pair of blocks."""
        return self._to_tokens(residual, "schedule")

    def to_tokens(self, hidden_states: Tensor) -> Tensor:
        """See ``Sharding``."""
        return self._to_tokens(hidden_states, "blocks")

    def _to_tokens(self, hidden_states: Tensor, purpose: Purpose) -> Tensor:
        if self._sequence is None:
            return hidden_states
        batch, _, tokens, channels = hidden_states.shape
        token_parts = even_parts(tokens, self._sequence.size)
        own = _length(token_parts[self._sequence.index])
        parts = [hidden_states[:, :, part] for part in token_parts]
        shapes = [(batch, _length(part), own, channels) for part in self._frame_parts]
        return torch.cat(self._sequence.exchange(parts, shapes, purpose), dim=1)

    def to_frames(self, hidden_states: Tensor, tokens_per_frame: int) -> Tensor:
        """See ``Sharding``."""
        if self._sequence is None:
            return hidden_states
        batch, _, _, channels = hidden_states.shape
        token_parts = even_parts(tokens_per_frame, self._sequence.size)
        parts = [hidden_states[:, part] for part in self._frame_parts]
        shapes = [(batch, _length(self.frames), _length(part), channels) for part in token_parts]
        return torch.cat(self._sequence.exchange(parts, shapes, "blocks"), dim=2)

    def whole(self, output: Tensor, guidance: int) -> Tensor:
        """What the model makes of all frames and both branches, from this process' part (B, C, T of its frames, ...).

        Args:
            guidance: how many branches there are on different processes.
        """
        longest = max(_length(part) for part in self._frame_parts) if self._sequence else self._num_frames
        missing = longest - output.shape[2]
        parts = self._video.gather(F.pad(output, (0, 0, 0, 0, 0, missing)), "output")  # guidance first, then frames
        lengths = [_length(part) for part in self._frame_parts] if self._sequence else [self._num_frames]
        count = len(lengths)
        branches = [
            torch.cat([part[:, :, :size] for part, size in zip(parts[i * count :], lengths, strict=False)], dim=2)
            for i in range(guidance)
        ]
        return torch.cat(branches)


def _length(part: slice) -> int:
    return part.stop - part.start
