"""The sizes of a Latte transformer, from the config.json of Latte itself or of Open-Sora-Plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# What Open-Sora-Plan's code can do and diffusers' class cannot. Source: Open-Sora-Plan v1.1.0, its released config.
_NOT_OFFERED = {"use_rope": False, "compress_kv_factor": 1}
# Both know other kinds of norms and activations, which no released Latte has.
_ONLY = {"norm_type": "ada_norm_single", "norm_elementwise_affine": False, "activation_fn": "gelu-approximate"}


@dataclass(frozen=True)
class LatteConfig:
    """Arguments of diffusers' ``LatteTransformer3DModel``; the defaults are those of Latte-1.

    Attributes:
        num_layers: pairs of a spatial and a temporal block.
        sample_size: rows and columns of latents that positions are made for; others stretch them.
        video_length: latent frames; no other number can be sampled but one.
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
        """Read diffusers' config.json; entries that do not change the model at inference are left aside.

        Raises:
            ValueError: an entry asks for what this model cannot be.
        """
        return cls._from(dict(values))

    @classmethod
    def _from(cls, values: dict[str, Any]) -> Self:
        for name, only in _ONLY.items():
            if values.get(name, only) != only:
                raise ValueError(f"{name} is {values[name]!r}; only {only!r} can be run")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in fields}
        for name, value in known.items():
            wanted = type(fields[name].default)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (
                isinstance(value, bool) if wanted is bool else is_number and (wanted is float or value == int(value))
            ):
                raise ValueError(f"{name} must be {'True or False' if wanted is bool else 'a number'}, got {value!r}")
            if wanted is not bool and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
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
        """Arguments of diffusers' class."""
        own = {**dataclasses.asdict(self), **_ONLY}
        del own["time_scale"]
        return own

    def check_size(self, num_latent_frames: int, latent_height: int, latent_width: int) -> None:
        """Raises: ValueError when latents of this size cannot be sampled."""
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
            ValueError: it asks for rotary positions, compressed keys, or latents that are not square.
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
                raise ValueError(f"sample_size is {list(size)}; only square ones can be run")
            values["sample_size"] = size[0]
        values["time_scale"] = values.get("interpolation_scale_1d") or cls._time_scale(values)
        return cls._from(values)

    @classmethod
    def _time_scale(cls, values: Mapping[str, Any]) -> int:
        """Source: Open-Sora-Plan v1.1.0, LatteT2V: 16 frames apart, positions are what an image model knows."""
        length = values.get("video_length", cls.video_length)
        return max(1, (length - 1 if length % 2 else length) // 16) if isinstance(length, int) else 1
