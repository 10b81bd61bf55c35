"""What STDiT3 asks of processes that share a video: that its tokens change hands between its two kinds of blocks."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Sharding(Protocol):
    """Hidden states between blocks: a spatial block needs whole frames, a temporal one all frames of a place.

    Attributes:
        frames: of all latent frames in order, those that this process has between the blocks' pairs.
    """

    frames: slice

    def to_tokens(self, hidden_states: Tensor) -> Tensor:
        """(B, T of these frames, S, C) -> (B, T, this process' part of S, C)."""
        ...

    def to_frames(self, hidden_states: Tensor, tokens_per_frame: int) -> Tensor:
        """The other way, for S = ``tokens_per_frame``."""
        ...


class Unsharded:
    """One process has everything."""

    frames = slice(None)

    def to_tokens(self, hidden_states: Tensor) -> Tensor:
        """As they are."""
        return hidden_states

    def to_frames(self, hidden_states: Tensor, tokens_per_frame: int) -> Tensor:
        """As they are."""
        return hidden_states


UNSHARDED = Unsharded()
