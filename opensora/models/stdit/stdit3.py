"""STDiT3, the video diffusion transformer of Open-Sora v1.2, with the two call sites of a step cache.

Shapes: B batch (conditional and unconditional halves together), T latent frames, S patches per frame, N = T * S
tokens in frame-major order, C channels, L text tokens.
Source: Open-Sora v1.2, ``opensora/models/stdit/stdit3.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adacache import StepController
from adacache.sites import Site, Stream
from opensora.device import compile_function
from opensora.models.layers.attention import CrossAttention, RotaryEmbedding, SelfAttention
from opensora.models.layers.embeddings import (
    CaptionEmbedder,
    Mlp,
    PatchEmbed3D,
    SinusoidEmbedder,
    position_embedding,
    select_tokens,
)
from opensora.models.stdit.cached_stack import CachedStack, Conditions
from opensora.models.stdit.config import STDiT3Config
from opensora.models.stdit.sharding import UNSHARDED, Sharding
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

NORM_EPS = 1e-6
DEFAULT_FPS = 24.0
VAE_FACTOR = 8  # pixels per latent, for the size assumed when the caller gives none


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then a given affine map; ``x`` is (B, T, S, C), the others broadcast to it."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


@dataclass(frozen=True)
class BlockFunctions:
    """How blocks compute: functions of (block, tensors) that know no controller.

    Attributes:
        whole: all three residual branches, added to the hidden states.
        attention, cross_attention, mlp: one residual branch each, for blocks that a controller looks into.
    """

    whole: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    cross_attention: Callable[..., Tensor]
    mlp: Callable[..., Tensor]


class STDiT3Block(nn.Module):
    """Self-attention within frames (spatial) or along time (temporal), cross-attention to the text, MLP.

    Attributes:
        functions: plain methods of this class, or what ``STDiT3.compile_blocks`` made of them.
    """

    def __init__(self, config: STDiT3Config, temporal: bool, index: int):
        super().__init__()
        dim = config.hidden_size
        self.temporal = temporal
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
            controller: is shown every branch; None where nobody looks into this block.
        """
        run = self.functions
        if controller is None:
            return run.whole(self, x, text, text_mask, modulation, rope)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation_rows(modulation)

        def branch(part: str, compute: Callable[[], Tensor]) -> Tensor:
            return controller.branch(Site(self.stream, self.index, part), compute)

        x = x + branch("attn", lambda: run.attention(self, x, shift_msa, scale_msa, gate_msa, rope))
        x = x + branch("cross", lambda: run.cross_attention(self, x, text, text_mask))
        return x + branch("mlp", lambda: run.mlp(self, x, shift_mlp, scale_mlp, gate_mlp))

    @property
    def stream(self) -> Stream:
        """What a controller calls the axis of the block's self-attention."""
        return "temporal" if self.temporal else "spatial"

    def computed(
        self, x: Tensor, text: Tensor, text_mask: Tensor | None, modulation: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """``x`` (B, T, S, C) with what all branches add; the arguments are those of ``forward``."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation_rows(modulation)
        x = x + self.attention_residual(x, shift_msa, scale_msa, gate_msa, rope)
        x = x + self.cross_attention_residual(x, text, text_mask)
        return x + self.mlp_residual(x, shift_mlp, scale_mlp, gate_mlp)

    def modulation_rows(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of self-attention, then of the MLP, (B, 1 or T, 1, C) each."""
        return (self.scale_shift_table + modulation).unsqueeze(3).unbind(2)

    def modulated_input(self, x: Tensor, modulation: Tensor) -> Tensor:
        """What self-attention reads of ``x`` (B, T, S, C); ``modulation`` is that of ``forward``."""
        shift, scale = self.modulation_rows(modulation)[:2]
        return modulate(x, shift, scale)

    def attention_residual(
        self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """What self-attention adds to ``x`` (B, T, S, C); the modulation is (B, 1 or T, 1, C) each."""
        return gate * self._attend(modulate(x, shift, scale), rope)

    def cross_attention_residual(self, x: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """What the text (B, L, C) adds to ``x`` (B, T, S, C); ``text_mask`` is (B, L)."""
        return self.cross_attn(x.flatten(1, 2), text, text_mask).view_as(x)

    def mlp_residual(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """What the MLP adds to ``x`` (B, T, S, C); the modulation is (B, 1 or T, 1, C) each."""
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


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches, (B, T, S, C) -> (B, T, S, prod(patch) * out_channels)."""

    def __init__(self, config: STDiT3Config):
        super().__init__()
        dim = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        _, rows, columns = config.patch_size
        self.linear = nn.Linear(dim, rows * columns * config.out_channels)

    def forward(self, x: Tensor, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        """``t`` and ``t0`` are (B, C) embeddings of the current timestep and of timestep 0."""
        x = modulate(x, *self._rows(t))
        if t0 is not None and x_mask is not None:
            # Held frames are normalized a second time, on top of the first modulation: the published weights
            # were trained with it.
            held = modulate(x, *self._rows(t0))
            x = torch.where(x_mask[:, :, None, None], x, held)
        return self.linear(x)

    def _rows(self, t: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (self.scale_shift_table + t[:, None])[:, None, None].unbind(3)  # (B, 1, 1, C)
        return shift, scale


class STDiT3(PretrainedModel):
    """Predicts the velocity of noisy video latents from a timestep and a text.

    A controller decides per step whether the stack of blocks runs; see ``adacache.StepController``. Without one the
    model computes everything, and with one a computed step gives bit for bit the same output.
    """

    config_class = STDiT3Config
    config: STDiT3Config

    def __init__(self, config: STDiT3Config):
        super().__init__(config)
        dim = config.hidden_size
        self.rope = RotaryEmbedding(dim // config.num_heads)
        self.x_embedder = PatchEmbed3D(config.patch_size, config.in_channels, dim)
        self.t_embedder = SinusoidEmbedder(dim)
        self.fps_embedder = SinusoidEmbedder(dim)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.y_embedder = CaptionEmbedder(config.caption_channels, dim, config.model_max_length)
        self.spatial_blocks = nn.ModuleList([STDiT3Block(config, False, i) for i in range(config.depth)])
        self.temporal_blocks = nn.ModuleList([STDiT3Block(config, True, i) for i in range(config.depth)])
        self.final_layer = FinalLayer(config)

    def compile_blocks(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Let all blocks compute by ``torch.compile``; weights and state dict stay as they are.

        A block that no controller looks into is one graph, with its residual additions; of one that a controller
        watches, each branch is. Code is generated in the next forward passes, for the number of threads set by then.
        Each graph serves all blocks of a kind. Results differ from the uncompiled ones by rounding, and so do those
        of a watched block from those of the same block unwatched.

        Args:
            backend: a name that torch.compile knows, or a function that compiles a graph.
        """
        compiled = BlockFunctions(**{name: compile_function(plain, backend) for name, plain in vars(EAGER).items()})
        for block in (*self.spatial_blocks, *self.temporal_blocks):
            block.functions = compiled

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        x_mask: Tensor | None = None,
        fps: Tensor | None = None,
        height: Tensor | None = None,
        width: Tensor | None = None,
        controller: StepController | None = None,
        sharding: Sharding = UNSHARDED,
        **ignored: Any,
    ) -> Tensor:
        """Velocity (and unused channels) of ``x``.

        Args:
            x: noisy latents (B, 4, T, Hx, Wx).
            timestep: (B,), 0 (clean) to 1000 (noise).
            y: text features (B, 1, L, caption_channels).
            mask: (Bm, L), non-zero at real text tokens; Bm may be half of B (guidance). Best on the CPU, whatever the
                model's device: its lengths are read.
            x_mask: (B, T) bool; frames that are False are treated as clean (timestep 0).
            fps, height, width: (Bm,) frames per second and size in pixels of the video.
            controller: decides whether this step is computed or its last residual reused.
            sharding: which frames of ``x`` are this process' own; below, T is their number outside of temporal blocks.

        Returns:
            (B, out_channels, T, Hx, Wx) float32, of these frames.
        """
        dtype = self.x_embedder.proj.weight.dtype
        frames, x = x.shape[2], x[:, :, sharding.frames].to(dtype)
        t, t0 = self._embed_time(timestep, fps, len(x), with_t0=x_mask is not None)
        hidden_states = self._embed_patches(x, height, width)  # (B, T, S, C)
        conditions = Conditions(
            lambda: self._embed_text(y.to(dtype), mask),
            lambda: self._modulation(t, t0, x_mask),
            lambda: self.rope.tables(frames),
        )
        if controller is None:
            hidden_states = self.run_blocks(hidden_states, conditions, sharding)
        else:
            hidden_states = CachedStack(self, x, hidden_states, conditions, sharding, controller).run()
        own_mask = None if x_mask is None else x_mask[:, sharding.frames]
        out = self.final_layer(hidden_states, t, t0, own_mask)
        out = self._unpatchify(out, x.shape[2:]).float()
        return out if controller is None else controller.output(x, out)

    def run_blocks(
        self,
        hidden_states: Tensor,
        conditions: Conditions,
        sharding: Sharding,
        controller: StepController | None = None,
        has_begun: bool = False,
    ) -> Tensor:
        """All blocks, a spatial and a temporal one in turns, (B, T, S, C) -> (B, T, S, C).

        Args:
            has_begun: whether ``hidden_states`` are what ``first_block`` made of them.
        """
        text, text_mask = conditions.text
        h, tokens_per_frame = hidden_states, hidden_states.shape[2]
        del hidden_states  # free them as soon as a block has read them
        for i, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks, strict=True)):
            if i > 0 or not has_begun:
                in_frames = conditions.modulation_of(sharding.frames)
                h = spatial(h, text, text_mask, in_frames, None, _watching(controller, spatial))
            h = sharding.to_tokens(h)
            h = temporal(h, text, text_mask, conditions.modulation, conditions.rope, _watching(controller, temporal))
            h = sharding.to_frames(h, tokens_per_frame)
        return h

    def first_block(
        self, hidden_states: Tensor, conditions: Conditions, sharding: Sharding, controller: StepController
    ) -> Tensor:
        """The first spatial block alone, (B, T, S, C) -> (B, T, S, C)."""
        block = self.spatial_blocks[0]
        modulation = conditions.modulation_of(sharding.frames)
        return block(hidden_states, *conditions.text, modulation, None, _watching(controller, block))

    def _embed_time(
        self, timestep: Tensor, fps: Tensor | None, batch: int, with_t0: bool
    ) -> tuple[Tensor, Tensor | None]:
        if fps is None:
            fps = timestep.new_full((1,), DEFAULT_FPS)
        fps_embedding = self.fps_embedder(fps).repeat(batch // len(fps), 1)
        t = self.t_embedder(timestep) + fps_embedding
        t0 = self.t_embedder(torch.zeros_like(timestep)) + fps_embedding if with_t0 else None
        return t, t0

    def _embed_patches(self, x: Tensor, height: Tensor | None, width: Tensor | None) -> Tensor:
        _, patch_rows, patch_columns = self.config.patch_size
        rows, columns = -(-x.shape[3] // patch_rows), -(-x.shape[4] // patch_columns)
        if height is None or width is None:
            area = torch.tensor(float(x.shape[3] * x.shape[4] * VAE_FACTOR**2), device=x.device)
        else:
            area = height[0].float() * width[0].float()  # upstream, too, takes the first sample's size
        positions = position_embedding(rows, columns, self.config.hidden_size, area.sqrt() / self.config.input_sq_size)
        return self.x_embedder(x) + positions.to(x.dtype)

    def _embed_text(self, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y, text_mask = select_tokens(y.squeeze(1), mask)
        return self.y_embedder(y), text_mask

    def _modulation(self, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        modulation = self.t_block(t).unflatten(1, (6, -1))[:, None]  # (B, 1, 6, C)
        if t0 is None or x_mask is None:
            return modulation
        held = self.t_block(t0).unflatten(1, (6, -1))[:, None]
        return torch.where(x_mask[:, :, None, None], modulation, held)  # (B, T, 6, C)

    def _unpatchify(self, x: Tensor, size: torch.Size) -> Tensor:
        frames, height, width = size
        _, rows, columns = self.config.patch_size
        grid = (-(-height // rows), -(-width // columns))
        x = x.unflatten(3, (rows, columns, -1)).unflatten(2, grid)  # (B, T, H, W, rows, columns, C_out)
        x = x.permute(0, 6, 1, 2, 4, 3, 5)  # (B, C_out, T, H, rows, W, columns)
        return x.flatten(5, 6).flatten(3, 4)[:, :, :, :height, :width]


def _watching(controller: StepController | None, block: STDiT3Block) -> StepController | None:
    """The controller, if it looks into the block."""
    watches = controller is not None and controller.watches(block.stream, block.index)
    return controller if watches else None


@MODELS.register_module("STDiT3")
@MODELS.register_module("STDiT3-XL/2")
def stdit3(
    from_pretrained: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    qk_norm: bool | None = None,
    **sizes: Any,
) -> STDiT3:
    """Upstream's registered constructor: a checkpoint, or without one a model of the given sizes with random weights.

    Kernel and training options among ``sizes`` are ignored; native kernels are used.
    """
    if qk_norm is not None:
        sizes["qk_norm"] = qk_norm
    if from_pretrained is None:
        return STDiT3(STDiT3Config.from_dict(sizes)).to(device=device, dtype=dtype)
    overrides = {} if qk_norm is None else {"qk_norm": qk_norm}  # a checkpoint's own config.json rules otherwise
    return STDiT3.from_pretrained(from_pretrained, dtype=dtype, device=device, **overrides)
