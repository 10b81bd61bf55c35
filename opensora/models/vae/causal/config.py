"""The sizes of Open-Sora-Plan's causal autoencoder, and a check that a config.json describes this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

LEVELS = 4
# The layers of v1.1.0. The project's code has others, which the released checkpoints of v1.0.0 and v1.2 use.
# Source: Open-Sora-Plan v1.1.0, config.json of the released autoencoder.
ARCHITECTURE: dict[str, Any] = {
    "double_z": True,
    "q_conv": "CausalConv3d",
    "encoder_conv_in": "Conv2d",
    "encoder_conv_out": "CausalConv3d",
    "encoder_attention": "AttnBlock3DFix",
    "encoder_resnet_blocks": ["ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"],
    "encoder_spatial_downsample": ["Downsample", "Downsample", "Downsample", ""],
    "encoder_temporal_downsample": ["", "TimeDownsampleRes2x", "TimeDownsampleRes2x", ""],
    "encoder_mid_resnet": "ResnetBlock3D",
    "decoder_conv_in": "CausalConv3d",
    "decoder_conv_out": "CausalConv3d",
    "decoder_attention": "AttnBlock3DFix",
    "decoder_resnet_blocks": ["ResnetBlock3D"] * LEVELS,
    "decoder_spatial_upsample": ["", "SpatialUpsample2x", "SpatialUpsample2x", "SpatialUpsample2x"],
    "decoder_temporal_upsample": ["", "", "TimeUpsampleRes2x", "TimeUpsampleRes2x"],
    "decoder_mid_resnet": "ResnetBlock3D",
    "attn_resolutions": [],
}


@dataclass(frozen=True)
class CausalVAEConfig:
    """Widths of the autoencoder; the defaults are those of v1.1.0.

    Attributes:
        hidden_size: channels at full resolution.
        hidden_size_mult: what `hidden_size` is multiplied by, level by level.
        num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
        z_channels: channels of latents inside the network.
        embed_dim: channels of latents outside of it.
    """

    hidden_size: int = 128
    hidden_size_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4

    def __post_init__(self) -> None:
        numbers = [self.hidden_size, *self.hidden_size_mult, self.num_res_blocks, self.z_channels, self.embed_dim]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError("its sizes must be whole numbers above 0")
        if len(self.hidden_size_mult) != LEVELS:
            raise ValueError(f"hidden_size_mult must have {LEVELS} entries, got {list(self.hidden_size_mult)}")
        if any(width % 32 for width in self.widths):
            raise ValueError(f"its levels have {list(self.widths)} channels, which must be multiples of 32")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a config.json of Open-Sora-Plan.

        Raises:
            ValueError: it describes another of the project's autoencoders; the message names the entry.
        """
        for name, wanted in ARCHITECTURE.items():
            given = values.get(name, wanted)
            if (list(given) if isinstance(given, tuple) else given) != wanted:
                raise ValueError(
                    f"{name} is {given!r}, but the autoencoder of Open-Sora-Plan v1.1.0 has {wanted!r}; those of other "
                    "versions cannot be run"
                )
        names = {field.name for field in dataclasses.fields(cls)}
        known = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
        }
        return cls(**known)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.hidden_size * factor for factor in self.hidden_size_mult)
