"""Latte, and Open-Sora-Plan v1.1.0, whose transformer is the same network: diffusers' class under this project's loop.

Source: diffusers, ``LatteTransformer3DModel``; Open-Sora-Plan v1.1.0, ``LatteT2V``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.embeddings import PatchEmbed, get_1d_sincos_pos_embed_from_grid
from torch import Tensor, nn

from adacache.integrations.diffusers.forward import CachedForward
from opensora.models.latte.config import LatteConfig, OpenSoraPlanConfig
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

if TYPE_CHECKING:
    from adacache import StepController

__all__ = ["LatteConfig", "LatteModel", "OpenSoraPlanConfig", "OpenSoraPlanModel"]

HIDDEN = -10_000.0  # added to attention to tokens that are masked; what diffusers takes, too


class LatteModel(PretrainedModel):
    """A Latte transformer in diffusers' format.

    Attributes:
        config: its sizes.
        transformer: diffusers' model.
    """

    config_class: type[LatteConfig] = LatteConfig

    def __init__(self, config: LatteConfig) -> None:
        super().__init__(config)
        self.transformer = LatteTransformer3DModel(**config.arguments())

    @property
    def core(self) -> nn.Module:
        """Diffusers' model."""
        return self.transformer

    def make_tables(self) -> None:
        """Positions of patches and frames."""
        config = self.config
        patches = PatchEmbed(
            height=config.sample_size,
            width=config.sample_size,
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            embed_dim=config.hidden_size,
            interpolation_scale=max(config.sample_size // 64, 1),
        )
        self.transformer.pos_embed.pos_embed = patches.pos_embed
        frames = torch.arange(config.video_length)[:, None] / config.time_scale
        table = get_1d_sincos_pos_embed_from_grid(config.hidden_size, frames, output_type="pt")
        self.transformer.temp_pos_embed = table.float()[None]

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        controller: StepController | None = None,
    ) -> Tensor:
        """Noise and its variance, (B, 8, T, H, W), in latents ``x`` (B, 4, T, H, W).

        Args:
            timestep: (B,), 999 for noise to 0.
            y: features of captions, (B, L, caption_channels) or (B, 1, L, caption_channels).
            mask: (B, L), non-zero at tokens to see; None: all.
            controller: decides whether blocks are computed or reused.

        Raises:
            ValueError: latents of this size cannot be sampled.
        """
        num_frames, height, width = x.shape[2:]
        self.config.check_size(num_frames, height, width)
        arguments: dict[str, Any] = {
            "hidden_states": x,
            "timestep": timestep,
            "encoder_hidden_states": y.flatten(1, -2),
            "enable_temporal_attentions": num_frames > 1,  # as images were trained
            "return_dict": False,
        }
        if mask is not None:
            bias = (1 - (mask != 0).to(x.dtype)) * HIDDEN
            # A row for each frame: diffusers hands it to its spatial blocks, for which frames are the batch.
            arguments["encoder_attention_mask"] = bias[:, None].repeat_interleave(num_frames, dim=0)
        if controller is None:
            return self.transformer(**arguments)[0]
        return CachedForward(self.transformer)(controller, self.transformer.forward, "default", arguments)[0]


class OpenSoraPlanModel(LatteModel):
    """Open-Sora-Plan v1.1.0's transformer, from its own checkpoints."""

    config_class = OpenSoraPlanConfig
    unused_tensors = PretrainedModel.unused_tensors | {"caption_projection.y_embedding"}  # an empty caption, not used


@MODELS.register_module("Latte")
def latte(from_pretrained: str, dtype: torch.dtype, device: torch.device | str, **ignored: Any) -> LatteModel:
    """The model of a config's ``model`` section."""
    return LatteModel.from_pretrained(from_pretrained, dtype=dtype, device=device)


@MODELS.register_module("LatteT2V")
def open_sora_plan(
    from_pretrained: str, dtype: torch.dtype, device: torch.device | str, **ignored: Any
) -> OpenSoraPlanModel:
    """The model of a config's ``model`` section, of Open-Sora-Plan."""
    return OpenSoraPlanModel.from_pretrained(from_pretrained, dtype=dtype, device=device)
