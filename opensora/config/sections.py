"""The sections of a sampling configuration: one dataclass for the pieces whose ``type`` asks for the same entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal, get_args, get_type_hints

_FRAMES_PER_LATENT = 4  # of Open-Sora's temporal autoencoders, and of Open-Sora-Plan's causal one
_PIXELS_PER_LATENT = 8  # along a side, of published autoencoders


def at_least(minimum: float, default: Any = MISSING, at_most: float | None = None) -> Any:
    """A dataclass field whose numbers must not be smaller than ``minimum``, nor larger than ``at_most``."""
    return field(default=default, metadata={"minimum": minimum, "maximum": at_most})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion transformer."""

    from_pretrained: str  # folder, weight file or Hugging Face repository
    type: Literal["STDiT3-XL/2", "STDiT3"] = "STDiT3-XL/2"
    qk_norm: bool | None = None  # None: as the checkpoint says


@dataclass(frozen=True, kw_only=True)
class LatteModelConfig:
    """A Latte transformer: as diffusers names its sizes ("Latte"), or as Open-Sora-Plan does ("LatteT2V")."""

    from_pretrained: str
    type: Literal["Latte", "LatteT2V"] = "Latte"


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder between pixels and latents."""

    from_pretrained: str
    type: Literal["OpenSoraVAE_V1_2"] = "OpenSoraVAE_V1_2"
    micro_frame_size: int | None = at_least(1, 17)  # frames per temporal chunk
    micro_batch_size: int | None = at_least(1, 4)  # frames per pass of the 2-D autoencoder
    tiling: bool = False  # encode and decode in tiles: an eighth of the memory at 720p, the same pixels up to rounding
    tile_size: int | None = at_least(1, None)  # latents per side of a tile; None: 32

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return self.micro_frame_size or num_frames

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip, chunk by chunk."""
        chunk = self.frames_per_chunk(num_frames)
        full, rest = divmod(num_frames, chunk)
        return full * -(-chunk // _FRAMES_PER_LATENT) + -(-rest // _FRAMES_PER_LATENT)


@dataclass(frozen=True, kw_only=True)
class ImageVAEConfig:
    """An image autoencoder, which encodes and decodes frame by frame."""

    from_pretrained: str
    type: Literal["AutoencoderKL"] = "AutoencoderKL"
    micro_batch_size: int | None = at_least(1, 4)  # frames at a time; None: all

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return 1

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip: every frame has one of its own."""
        return num_frames

    def num_frames(self, latent_frames: int) -> int:
        """Frames that so many latent ones are decoded to."""
        return latent_frames

    @staticmethod
    def downsample(entries: Mapping[str, Any]) -> int:
        """Pixels per latent along a side, by the entries of its config.json; without them that of the published one."""
        levels = entries.get("block_out_channels")
        return 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else _PIXELS_PER_LATENT


@dataclass(frozen=True, kw_only=True)
class CausalVAEConfig:
    """Open-Sora-Plan's autoencoder, where a first frame stands alone and every four others share a latent one."""

    from_pretrained: str
    type: Literal["CausalVAE"] = "CausalVAE"
    tiling: bool = (
        False  # overlapping tiles of frames with more than 256 pixels per side, as published videos were made
    )

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return num_frames

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of 4 k + 1 frames."""
        return 1 + (num_frames - 1) // _FRAMES_PER_LATENT

    def num_frames(self, latent_frames: int) -> int:
        """Frames that so many latent ones are decoded to."""
        return 1 + (latent_frames - 1) * _FRAMES_PER_LATENT

    @staticmethod
    def downsample(entries: Mapping[str, Any]) -> int:
        """Pixels per latent along a side, whatever its config.json says of widths."""
        return _PIXELS_PER_LATENT


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The T5 encoder."""

    from_pretrained: str
    type: Literal["t5"] = "t5"
    model_max_length: int = at_least(1, 300)  # tokens
    dtype: Literal["bf16", "fp16", "fp32"] = "fp32"
    quantize: Literal["int8"] | None = None  # 8-bit weights
    stream: bool = False  # one layer at a time on the device


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The rectified-flow sampler; the one place that knows the number of steps."""

    type: Literal["rflow"] = "rflow"
    num_sampling_steps: int = at_least(1, 10, at_most=10_000)
    cfg_scale: float = at_least(0, 4.0)
    use_timestep_transform: bool = False
    use_discrete_timesteps: bool = False
    num_timesteps: int = at_least(1, 1000)
    base_resolution: int = at_least(1, 512 * 512)  # pixels of an image whose timesteps the transform keeps
    solver: Literal["euler", "adams", "midpoint"] = "euler"  # the model is called once per step by all of them


@dataclass(frozen=True, kw_only=True)
class DiffusionSchedulerConfig:
    """A sampler of noise-predicting models, around diffusers' scheduler of that name.

    Options that are None have the default of diffusers' class; they are named as it names them.
    """

    type: Literal["ddim", "pndm", "euler", "heun"] = "ddim"
    num_sampling_steps: int = at_least(1, 50, at_most=10_000)  # pndm and heun call the model more often
    cfg_scale: float = at_least(0, 7.5)
    num_train_timesteps: int | None = at_least(1, None)
    beta_start: float | None = at_least(0, None, at_most=1)
    beta_end: float | None = at_least(0, None, at_most=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] | None = None
    clip_sample: bool | None = None
    set_alpha_to_one: bool | None = None
    skip_prk_steps: bool | None = None
    steps_offset: int | None = at_least(0, None)
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None

    @property
    def solver(self) -> str:
        """How a step is made of the model's outputs."""
        return self.type


# Section -> the dataclasses its entries may be read into; the first one where they name no type.
SECTIONS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, LatteModelConfig),
    "vae": (VAEConfig, ImageVAEConfig, CausalVAEConfig),
    "text_encoder": (TextEncoderConfig,),
    "scheduler": (SchedulerConfig, DiffusionSchedulerConfig),
}


def types_of(cls: type) -> tuple[str, ...]:
    """The values of ``type`` whose entries ``cls`` holds."""
    return get_args(get_type_hints(cls)["type"])


def section_class(section: str, entries: Mapping[str, Any]) -> type:
    """The dataclass for the entries of a section; that of the default type where theirs is unknown."""
    classes = SECTIONS[section]
    wanted = entries.get("type")
    return next((cls for cls in classes if isinstance(wanted, str) and wanted in types_of(cls)), classes[0])
