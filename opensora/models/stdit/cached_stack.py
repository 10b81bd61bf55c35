"""The blocks of one forward pass as a step controller sees them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from adacache import StepController
from opensora.models.stdit.sharding import Sharding

if TYPE_CHECKING:
    from opensora.models.stdit.stdit3 import STDiT3


class Conditions:
    """What the blocks of one forward pass are told beside the hidden states; made when it is first asked for.

    A step that reuses a residual never asks.

    Args:
        text: gives the embedded captions (B, L, C), and which of their tokens are real, (B, L) or None for all.
        modulation: gives what the timestep adds to the blocks' tables, (B, 1 or T, 6, C).
        rope: gives the tables of the rotary embedding of all frames.
    """

    def __init__(
        self,
        text: Callable[[], tuple[Tensor, Tensor | None]],
        modulation: Callable[[], Tensor],
        rope: Callable[[], tuple[Tensor, Tensor]],
    ) -> None:
        self._text, self._modulation, self._rope = text, modulation, rope

    @cached_property
    def text(self) -> tuple[Tensor, Tensor | None]:
        """Embedded captions and the mask of their tokens."""
        return self._text()

    @cached_property
    def modulation(self) -> Tensor:
        """Of all frames."""
        return self._modulation()

    @cached_property
    def rope(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines."""
        return self._rope()

    def modulation_of(self, frames: slice) -> Tensor:
        """Of some frames; one row is for all of them."""
        return self.modulation if self.modulation.shape[1] == 1 else self.modulation[:, frames]

    def of_rows(self, rows: Tensor | None) -> Conditions:
        """Those of some rows of the batch, given by their indices; None for all."""
        if rows is None:
            return self
        text, mask = self.text
        own_text = text[rows], None if mask is None else mask[rows]
        return Conditions(lambda: own_text, lambda: self.modulation[rows], lambda: self.rope)


class CachedStack:
    """One forward pass of STDiT3's blocks under a controller, which may run them, for some of the videos, or not.

    Args:
        latents: (B, C, T, Hx, Wx), the model's input.
        hidden_states: (B, T, S, C), the blocks' input.
    """

    def __init__(
        self,
        model: STDiT3,
        latents: Tensor,
        hidden_states: Tensor,
        conditions: Conditions,
        sharding: Sharding,
        controller: StepController,
    ) -> None:
        self._model = model
        self._latents = latents
        self._hidden_states = hidden_states
        self._conditions = conditions
        self._sharding = sharding
        self._controller = controller
        self._begun: list[Tensor] = []  # what the first block gave, where a policy wanted to see it

    def run(self) -> Tensor:
        """The blocks' output (B, T, S, C), or the input with the residual that the controller gives."""
        signals = {
            "latents": lambda: self._latents.transpose(1, 2),  # frames first
            "modulated_input": self._modulated_input,
            "first_block": self._first_block,
        }
        tokens, tokens_per_frame = self._hidden_states.flatten(1, 2), self._hidden_states.shape[2]
        tokens = self._controller.stack(tokens, self._compute, tokens_per_frame, signals=signals)
        return tokens.unflatten(1, self._hidden_states.shape[1:3])

    def _compute(self, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """(B, T * S, C) -> the same; ``rows`` are the indices of the videos that are due, where not all are."""
        conditions, has_begun = self._conditions.of_rows(rows), bool(self._begun)
        # No name here holds what the blocks begin with, so that it is gone while they run.
        return self._model.run_blocks(
            self._take_begun(rows) if has_begun else tokens.unflatten(1, self._hidden_states.shape[1:3]),
            conditions,
            self._sharding,
            self._controller,
            has_begun,
        ).flatten(1, 2)

    def _take_begun(self, rows: Tensor | None) -> Tensor:
        return self._begun.pop() if rows is None else self._begun.pop()[rows]

    def _first_block(self) -> Tensor:
        """What the first block adds, (B, T * S, C); it is kept, as the blocks may be run next."""
        self._begun.append(
            self._model.first_block(self._hidden_states, self._conditions, self._sharding, self._controller)
        )
        return (self._begun[0] - self._hidden_states).flatten(1, 2)

    def _modulated_input(self) -> Tensor:
        modulation = self._conditions.modulation_of(self._sharding.frames)
        return self._model.spatial_blocks[0].modulated_input(self._hidden_states, modulation)
