"""STDiT3, the video diffusion transformer of Open-Sora v1.2, with the two call sites of a step cache.

Shapes: B batch (conditional and unconditional halves together), T latent frames, S patches per frame, N = T * S
tokens in frame-major order, C channels, L text tokens.
Source: Open-Sora v1.2, `opensora/models/stdit/stdit3.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from adacache import StepController
from opensora.device import compile_function
from opensora.models.layers.attention import RotaryEmbedding
from opensora.models.layers.embeddings import (
    CaptionEmbedder,
    PatchEmbed3D,
    SinusoidEmbedder,
    modulate,
    position_embedding,
    select_tokens,
)
from opensora.models.stdit.blocks import EAGER, UNSHARDED, BlockFunctions, Sharding, STDiT3Block
from opensora.models.stdit.config import STDiT3Config
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

DEFAULT_FPS = 24.0
VAE_FACTOR = 8  # pixels per latent, for the size assumed when the caller gives none


class FinalLayer(nn.Module):
    """Modulated norm and projection to patches, (B, T, S, C) -> (B, T, S, prod(patch) * out_channels)."""

    def __init__(self, config: STDiT3Config):
        super().__init__()
        dim = config.hidden_size
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        _, rows, columns = config.patch_size
        self.linear = nn.Linear(dim, rows * columns * config.out_channels)

    def forward(self, x: Tensor, t: Tensor, t0: Tensor | None, x_mask: Tensor | None) -> Tensor:
        """`t` and `t0` are (B, C) embeddings of the current timestep and of timestep 0."""
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

    A controller (`adacache.StepController`) decides in each step whether the stack of blocks runs. Without one the
    model computes everything; with one, a computed step gives bit for bit the same output.
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
        """Compile the computations of all blocks with `torch.compile`; weights and state dict stay as they are.

        A block that no controller watches is one graph, residual additions included; in a watched block, each branch is
        a graph. Code is generated in the next forward passes, for the number of threads set by then. Each graph serves
        all blocks of a kind. Compiled results differ from eager ones by rounding, and so do those of a watched block
        from those of the same block unwatched.

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
        """Predict the velocity of `x`, with further channels that sampling does not use.

        Args:
            x: noisy latents (B, 4, T, Hx, Wx).
            timestep: (B,), 0 (clean) to 1000 (noise).
            y: text features (B, 1, L, caption_channels).
            mask: (Bm, L), non-zero at real text tokens; Bm may be half of B (guidance). Best kept on the CPU, whatever
                the model's device, as the lengths of the texts are read from it.
            x_mask: (B, T) bool; frames that are False are treated as clean (timestep 0).
            fps, height, width: (Bm,) frames per second and size in pixels of the video.
            controller: decides whether this step is computed or its last residual reused.
            sharding: which frames of `x` this process computes; outside of temporal blocks, T counts only these.

        Returns:
            (B, out_channels, T, Hx, Wx) float32, for the frames of this process.
        """
        dtype = self.x_embedder.proj.weight.dtype
        latents = x.to(dtype)
        frames, x = x.shape[2], latents[:, :, sharding.frames]
        t, t0 = self._embed_time(timestep, fps, len(x), with_t0=x_mask is not None)
        conditions = Conditions(
            text=cache(lambda: self._embed_text(y.to(dtype), mask)),
            modulation=cache(lambda: self._modulation(t, t0, x_mask)),
            rope=cache(lambda: self.rope.tables(frames)),
        )
        if controller is None:  # the embedded patches are held by nobody else, and freed by the first block
            hidden_states = self.run_blocks(self._embed_patches(x, height, width), conditions, sharding)
        else:
            hidden_states = self._embed_patches(x, height, width)  # (B, T, S, C)
            hidden_states = CachedStack(self, latents, hidden_states, conditions, sharding, controller).run()
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
        """Run all blocks, spatial and temporal ones in turn, (B, T, S, C) -> (B, T, S, C).

        Args:
            has_begun: whether `hidden_states` are already the output of the first spatial block.
        """
        text, text_mask = conditions.text()
        modulation, rope = conditions.modulation(), conditions.rope()
        own_modulation = conditions.modulation_of(sharding.frames)
        h, tokens_per_frame = hidden_states, hidden_states.shape[2]
        del hidden_states  # free them as soon as a block has read them
        for i, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks, strict=True)):
            if i > 0 or not has_begun:
                h = spatial(h, text, text_mask, own_modulation, None, controller)
            h = sharding.to_tokens(h)
            h = temporal(h, text, text_mask, modulation, rope, controller)
            h = sharding.to_frames(h, tokens_per_frame)
        return h

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


@dataclass(frozen=True)
class Conditions:
    """Inputs of the blocks besides the hidden states, for one forward pass; each is computed when it is first called.

    A step that reuses a residual computes only what its policy's signal needs.

    Attributes:
        text: returns the embedded captions (B, L, C), and the mask (B, L) of their real tokens or None if all are real.
        modulation: returns what the timestep adds to the blocks' tables, (B, 1 or T, 6, C).
        rope: returns the tables of the rotary embedding of all frames.
    """

    text: Callable[[], tuple[Tensor, Tensor | None]]
    modulation: Callable[[], Tensor]
    rope: Callable[[], tuple[Tensor, Tensor]]

    def modulation_of(self, frames: slice) -> Tensor:
        """Return the modulation of some frames; a single row applies to every frame."""
        modulation = self.modulation()
        return modulation if modulation.shape[1] == 1 else modulation[:, frames]

    def of_rows(self, rows: Tensor | None) -> Conditions:
        """Return the conditions of some rows of the batch, given by their indices; None means all rows."""
        if rows is None:
            return self
        text, mask = self.text()
        own_text = text[rows], None if mask is None else mask[rows]
        return Conditions(lambda: own_text, cache(lambda: self.modulation()[rows]), self.rope)


class CachedStack:
    """One forward pass of STDiT3's blocks under a controller, which may run them for all, some or none of the videos.

    Args:
        latents: (B, C, T, Hx, Wx), the model's input with all frames.
        hidden_states: (B, T, S, C), the blocks' input; as in `STDiT3.forward`, T are this process' own frames.
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
        self._begun: list[Tensor] = []  # output of the first block, if a policy has asked for it

    def run(self) -> Tensor:
        """Return the blocks' output (B, T, S, C), or their input plus the residual that the controller reuses."""
        signals = {
            "latents": lambda: self._latents.transpose(1, 2),  # frames first
            "modulated_input": self._modulated_input,
            "first_block": self._first_block,
        }
        tokens, tokens_per_frame = self._hidden_states.flatten(1, 2), self._hidden_states.shape[2]
        tokens = self._controller.stack(tokens, self._compute, tokens_per_frame, signals=signals)
        return tokens.unflatten(1, self._hidden_states.shape[1:3])

    def _compute(self, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """Run the blocks, (B, T * S, C) -> the same; `rows` are the indices of the videos that are due (None: all)."""
        conditions, has_begun = self._conditions.of_rows(rows), bool(self._begun)
        # No name here refers to the blocks' input, so that it can be freed while they run.
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
        """Return what the first block adds, (B, T * S, C), and keep its output in case the blocks run next."""
        block, conditions = self._model.spatial_blocks[0], self._conditions
        modulation = conditions.modulation_of(self._sharding.frames)
        self._begun.append(block(self._hidden_states, *conditions.text(), modulation, None, self._controller))
        return (self._begun[0] - self._hidden_states).flatten(1, 2)

    def _modulated_input(self) -> Tensor:
        modulation = self._conditions.modulation_of(self._sharding.frames)
        return self._model.spatial_blocks[0].modulated_input(self._hidden_states, modulation)


@MODELS.register_module("STDiT3")
@MODELS.register_module("STDiT3-XL/2")
def stdit3(
    from_pretrained: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    qk_norm: bool | None = None,
    **sizes: Any,
) -> STDiT3:
    """Load a checkpoint, or without one build a model of the given sizes with random weights.

    This is upstream's registered constructor. Kernel and training options among `sizes` are ignored; native kernels are
    used.
    """
    if qk_norm is not None:
        sizes["qk_norm"] = qk_norm
    if from_pretrained is None:
        return STDiT3(STDiT3Config.from_dict(sizes)).to(device=device, dtype=dtype)
    overrides = {} if qk_norm is None else {"qk_norm": qk_norm}  # a checkpoint's own config.json rules otherwise
    return STDiT3.from_pretrained(from_pretrained, dtype=dtype, device=device, **overrides)
