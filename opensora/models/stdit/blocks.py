"""The blocks of STDiT3, and the interface by which processes that share a video exchange tokens between blocks.

Shapes: B batch, T latent frames, S patches per frame, C channels, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adacache import StepController
from adacache.sites import Site, Stream
from opensora.models.layers.attention import CrossAttention, SelfAttention
from opensora.models.layers.embeddings import Mlp, modulate
from opensora.models.stdit.config import STDiT3Config


@dataclass(frozen=True)
class BlockFunctions:
    """The computations of a block, as functions of (block, tensors) that do not involve a controller.

    Attributes:
        whole: all three residual branches, added to the hidden states.
        attention, cross_attention, mlp: one residual branch each, for blocks that a controller watches.
    """

    whole: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    cross_attention: Callable[..., Tensor]
    mlp: Callable[..., Tensor]


class STDiT3Block(nn.Module):
    """Self-attention within frames (spatial) or along time (temporal), cross-attention to the text, MLP.

    Attributes:
        stream: the controller's name for the axis of the block's self-attention.
        functions: plain methods of this class, or what `STDiT3.compile_blocks` made of them.
    """

    def __init__(self, config: STDiT3Config, temporal: bool, index: int):
        super().__init__()
        dim = config.hidden_size
        self.temporal = temporal
        self.stream: Stream = "temporal" if temporal else "spatial"
        self.index = index
        self.functions = EAGER
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.attn = SelfAttention(dim, config.num_heads, config.qk_norm)
        self.cross_attn = CrossAttention(dim, config.num_heads)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), dim)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        modulation: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        controller: StepController | None = None,
    ) -> Tensor:
        """(B, T, S, C) -> (B, T, S, C).

        Args:
            modulation: (B, 1 or T, 6, C), what the timestep adds to the table; one row per frame under a mask.
            controller: is given every branch to run, measure or reuse, if it watches this block.
        """
        run = self.functions
        if controller is None or not controller.watches(self.stream, self.index):
            return run.whole(self, x, text, text_mask, modulation, rope)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation_rows(modulation)

        def branch(part: str, compute: Callable[[], Tensor]) -> Tensor:
            return controller.branch(Site(self.stream, self.index, part), compute)

        x = x + branch("attn", lambda: run.attention(self, x, shift_msa, scale_msa, gate_msa, rope))
        x = x + branch("cross", lambda: run.cross_attention(self, x, text, text_mask))
        return x + branch("mlp", lambda: run.mlp(self, x, shift_mlp, scale_mlp, gate_mlp))

    def computed(
        self, x: Tensor, text: Tensor, text_mask: Tensor | None, modulation: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return `x` (B, T, S, C) plus all residual branches; the arguments are those of `forward`."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation_rows(modulation)
        x = x + self.attention_residual(x, shift_msa, scale_msa, gate_msa, rope)
        x = x + self.cross_attention_residual(x, text, text_mask)
        return x + self.mlp_residual(x, shift_mlp, scale_mlp, gate_mlp)

    def modulation_rows(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the MLP, (B, 1 or T, 1, C) each."""
        return (self.scale_shift_table + modulation).unsqueeze(3).unbind(2)

    def modulated_input(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Return the input of self-attention: `x` (B, T, S, C), normalized and modulated as in `forward`."""
        shift, scale = self.modulation_rows(modulation)[:2]
        return modulate(x, shift, scale)

    def attention_residual(
        self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """What self-attention adds to `x` (B, T, S, C); shift, scale and gate are (B, 1 or T, 1, C)."""
        return gate * self._attend(modulate(x, shift, scale), rope)

    def cross_attention_residual(self, x: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """What the text (B, L, C) adds to `x` (B, T, S, C); `text_mask` is (B, L)."""
        return self.cross_attn(x.flatten(1, 2), text, text_mask).view_as(x)

    def mlp_residual(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """What the MLP adds to `x` (B, T, S, C); shift, scale and gate are (B, 1 or T, 1, C)."""
        return gate * self.mlp(modulate(x, shift, scale))

    def _attend(self, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        if not self.temporal:
            return self.attn(x.flatten(0, 1)).view_as(x)  # (B * T, S, C)
        by_place = x.transpose(1, 2)  # (B, S, T, C)
        return self.attn(by_place.flatten(0, 1), rope).view_as(by_place).transpose(1, 2)


EAGER = BlockFunctions(
    STDiT3Block.computed,
    STDiT3Block.attention_residual,
    STDiT3Block.cross_attention_residual,
    STDiT3Block.mlp_residual,
)


class Sharding:
    """Which part of a video this process computes: here all of it.

    Processes that share a video move hidden states between each other, as spatial blocks need whole frames and temporal
    ones all frames of a place.

    Attributes:
        frames: the latent frames that this process holds before and after each pair of blocks.
    """

    frames = slice(None)

    def to_tokens(self, hidden_states: Tensor) -> Tensor:
        """(B, T of `frames`, S, C) -> (B, T of all frames, this process' part of S, C)."""
        return hidden_states

    def to_frames(self, hidden_states: Tensor, tokens_per_frame: int) -> Tensor:
        """Invert `to_tokens`, where S = `tokens_per_frame`."""
        return hidden_states


UNSHARDED = Sharding()
