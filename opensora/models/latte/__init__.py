"""Latte, and Open-Sora-Plan v1.1.0, whose transformer is the same network: diffusers' class in this project's loop.

Source: diffusers, `LatteTransformer3DModel`; Open-Sora-Plan v1.1.0, `LatteT2V`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers import LatteTransformer3DModel
from diffusers.models.embeddings import PatchEmbed, get_1d_sincos_pos_embed_from_grid
from torch import Tensor, nn

from adacache.integrations.diffusers.forward import CachedForward
from opensora.device import exact_convolutions
from opensora.registry import MODELS
from opensora.weights.checkpoint import PretrainedModel

if TYPE_CHECKING:
    from adacache import StepController

HIDDEN = -10_000.0  # added to the attention scores of masked tokens, as in diffusers
# What Open-Sora-Plan's code can do and diffusers' class cannot. Source: Open-Sora-Plan v1.1.0, its released config.
_NOT_OFFERED = {"use_rope": False, "compress_kv_factor": 1}
# Both classes have other kinds of norms and activations, which no released Latte uses.
_ONLY = {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "activation_fn": "gelu-approximate"}


@dataclass(frozen=True)
class LatteConfig:
    """Arguments of diffusers' `LatteTransformer3DModel`; the defaults are those of Latte-1.

    Attributes:
        num_layers: pairs of a spatial and a temporal block.
        sample_size: rows and columns of latents that positions are made for; other sizes stretch them.
        video_length: latent frames of a video; the only other number that can be sampled is 1, an image.
        time_scale: what the positions of frames are divided by.
    """

    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int = 8
    cross_attention_dim: int = 1152
    caption_channels: int = 4096
    attention_bias: bool = True
    patch_size: int = 2
    sample_size: int = 64
    video_length: int = 16
    norm_eps: float = 1e-6
    num_embeds_ada_norm: int = 1000
    time_scale: int = 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read diffusers' config.json; entries that do not change the model at inference are ignored.

        Raises:
            ValueError: an entry asks for something that this model does not support.
        """
        return cls._from(dict(values))

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Self:
        for name, only in _ONLY.items():
            if values.get(name, only) != only:
                raise ValueError(f"{name} is {values[name]!r}; only {only!r} is supported")
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        for name, value in known.items():
            default = getattr(cls, name)
            if isinstance(default, bool):
                if not isinstance(value, bool):
                    raise ValueError(f"{name} must be True or False, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, type(default)) or value <= 0:
                raise ValueError(f"{name} must be a number above 0 such as {default}, got {value!r}")
        return cls(**known)

    @property
    def depth(self) -> int:
        """Blocks per stream."""
        return self.num_layers

    @property
    def hidden_size(self) -> int:
        """Width of hidden states."""
        return self.num_attention_heads * self.attention_head_dim

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of diffusers' class."""
        own = {**dataclasses.asdict(self), **_ONLY}
        del own["time_scale"]
        return own

    def check_size(self, num_latent_frames: int, latent_height: int, latent_width: int) -> None:
        """Refuse, with a ValueError, latents of a size that cannot be sampled."""
        if num_latent_frames not in (1, self.video_length):
            raise ValueError(
                f"this model makes videos of {self.video_length} latent frames, or images of 1, not of "
                f"{num_latent_frames}"
            )
        if latent_height % self.patch_size or latent_width % self.patch_size:
            raise ValueError(
                f"latents of {latent_height} x {latent_width} cannot be cut into patches of {self.patch_size} x "
                f"{self.patch_size}; choose height and width that are multiples of {8 * self.patch_size}"
            )


@dataclass(frozen=True)
class OpenSoraPlanConfig(LatteConfig):
    """The same network under Open-Sora-Plan's names; the defaults are those of v1.1.0, 65 x 512 x 512."""

    video_length: int = 17

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read Open-Sora-Plan's config.json.

        Raises:
            ValueError: it asks for rotary positions, compressed keys, latents that are not square, or anything else
                that this model does not support.
        """
        values = dict(values)
        for name, offered in _NOT_OFFERED.items():
            if values.get(name, offered) != offered:
                raise ValueError(
                    f"{name} is {values[name]!r}, which is not supported: the released checkpoints of Open-Sora-Plan "
                    f"v1.1.0 have {name}={offered!r}; use one of them"
                )
        size = values.get("sample_size")
        if isinstance(size, list | tuple):
            if len(set(size)) != 1:
                raise ValueError(f"sample_size is {list(size)}; only square ones are supported")
            values["sample_size"] = size[0]
        values["time_scale"] = values.get("interpolation_scale_1d") or cls._time_scale(values)
        return cls._from(values)

    @classmethod
    def _time_scale(cls, values: Mapping[str, Any]) -> int:
        """Return the scale that maps the positions of longer videos to about 0..16.

        Source: Open-Sora-Plan v1.1.0, `LatteT2V`.
        """
        length = values.get("video_length", cls.video_length)
        return max(1, (length - 1 if length % 2 else length) // 16) if isinstance(length, int) else 1


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
        """Compute the position tables of patches and frames."""
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

    @exact_convolutions()  # diffusers cuts patches with one
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        y: Tensor,
        mask: Tensor | None = None,
        controller: StepController | None = None,
    ) -> Tensor:
        """Predict the noise in latents `x` (B, 4, T, H, W) and its variance, together (B, 8, T, H, W).

        Args:
            timestep: (B,), from 999 (noise) to 0.
            y: features of captions, (B, L, caption_channels) or (B, 1, L, caption_channels).
            mask: (B, L), non-zero at tokens to attend to; None: all.
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
            "enable_temporal_attentions": num_frames > 1,  # images were trained without
            "return_dict": False,
        }
        if mask is not None:
            bias = (1 - (mask != 0).to(x.dtype)) * HIDDEN
            # One row per frame: diffusers passes it to its spatial blocks, which take frames as the batch.
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
    """Load the model of a config's `model` section."""
    return LatteModel.from_pretrained(from_pretrained, dtype=dtype, device=device)


@MODELS.register_module("LatteT2V")
def open_sora_plan(
    from_pretrained: str, dtype: torch.dtype, device: torch.device | str, **ignored: Any
) -> OpenSoraPlanModel:
    """Load the model of a config's `model` section, for Open-Sora-Plan."""
    return OpenSoraPlanModel.from_pretrained(from_pretrained, dtype=dtype, device=device)
