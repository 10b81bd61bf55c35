"""What a sampling configuration holds: typed, frozen, with upstream's key names.

The meaning of an entry is in the help of the flag of its name (`opensora/cli/arguments.py`), else in a comment.

Source: the keys and defaults of Open-Sora v1.2's inference configs and `scripts/inference.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, InstanceOf
from pydantic.dataclasses import dataclass

from adacache.policies import official_options
from adacache.policies.base import PolicyConfig
from opensora.latent_frames import CHUNK_FRAMES, causal_latent_frames, causal_num_frames, chunked_latent_frames

# No text for a number, no 1 for True; unknown keys, NaN and infinity are refused.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

DTypeName = Literal["bf16", "fp16", "fp32"]
_PIXELS_PER_LATENT = 8  # along a side, of published autoencoders
_PRK_CALLS = 9  # calls of pndm beyond one per step: it begins with three Runge-Kutta steps of four calls


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelConfig:
    """The diffusion transformer."""

    from_pretrained: str
    type: Literal["STDiT3-XL/2", "STDiT3"] = "STDiT3-XL/2"
    qk_norm: bool | None = None  # None: as the checkpoint says


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LatteModelConfig:
    """A Latte transformer: as diffusers names its sizes ("Latte"), or as Open-Sora-Plan does ("LatteT2V")."""

    from_pretrained: str
    type: Literal["Latte", "LatteT2V"] = "Latte"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VAEConfig:
    """The autoencoder between pixels and latents."""

    from_pretrained: str
    type: Literal["OpenSoraVAE_V1_2"] = "OpenSoraVAE_V1_2"
    micro_frame_size: int | None = Field(CHUNK_FRAMES, ge=1)  # frames per temporal chunk
    micro_batch_size: int | None = Field(4, ge=1)  # frames per pass of the 2-D autoencoder
    tiling: bool = False  # encode and decode in tiles: an eighth of the memory at 720p, the same pixels up to rounding
    tile_size: int | None = Field(None, ge=1)  # latents per side of a tile; None: 32

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return self.micro_frame_size or num_frames

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip, chunk by chunk."""
        return chunked_latent_frames(num_frames, self.micro_frame_size)

    @staticmethod
    def downsample(entries: Mapping[str, Any]) -> int:
        """Pixels per latent along a side, by the entries of its config.json; without them, as published."""
        return ImageVAEConfig.downsample((entries.get("vae_2d") or {}).get("autoencoder_kl") or {})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImageVAEConfig:
    """An image autoencoder, which encodes and decodes frame by frame."""

    from_pretrained: str
    type: Literal["AutoencoderKL"] = "AutoencoderKL"
    micro_batch_size: int | None = Field(4, ge=1)  # frames at a time; None: all

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return 1

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip: one per frame."""
        return num_frames

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames are decoded to."""
        return latent_frames

    @staticmethod
    def downsample(entries: Mapping[str, Any]) -> int:
        """Pixels per latent along a side, by the entries of its config.json; without them, as published."""
        levels = entries.get("block_out_channels")
        return 2 ** (len(levels) - 1) if isinstance(levels, list) and levels else _PIXELS_PER_LATENT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CausalVAEConfig:
    """Open-Sora-Plan's autoencoder: the first frame has its own latent frame, and every four others share one."""

    from_pretrained: str
    type: Literal["CausalVAE"] = "CausalVAE"
    tiling: bool = False  # overlapping tiles for frames above 256 pixels per side, as for the published videos

    def frames_per_chunk(self, num_frames: int) -> int:
        """Frames of a clip that are encoded and decoded together."""
        return num_frames

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of 4 k + 1 frames."""
        return causal_latent_frames(num_frames)

    def num_frames(self, latent_frames: int) -> int:
        """Frames that `latent_frames` latent frames are decoded to."""
        return causal_num_frames(latent_frames)

    @staticmethod
    def downsample(entries: Mapping[str, Any]) -> int:
        """Pixels per latent along a side, whatever the widths in its config.json."""
        return _PIXELS_PER_LATENT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TextEncoderConfig:
    """The T5 encoder."""

    from_pretrained: str
    type: Literal["t5"] = "t5"
    model_max_length: int = Field(300, ge=1)  # tokens
    dtype: DTypeName = "fp32"
    quantize: Literal["int8"] | None = None  # 8-bit weights
    stream: bool = False  # weights stay on disk; each is on the device only while it is used


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SchedulerConfig:
    """The rectified-flow sampler; the number of steps is set here and nowhere else."""

    type: Literal["rflow"] = "rflow"
    num_sampling_steps: int = Field(10, ge=1, le=10_000)
    cfg_scale: float = Field(4.0, ge=0)
    use_timestep_transform: bool = False
    use_discrete_timesteps: bool = False
    num_timesteps: int = Field(1000, ge=1)
    base_resolution: int = Field(512 * 512, ge=1)  # pixels of an image whose timesteps the transform keeps
    solver: Literal["euler", "adams", "midpoint"] = "euler"

    @property
    def num_model_calls(self) -> int:
        """Calls of the model in a run, which a step cache counts as its steps: one per step with every solver."""
        return self.num_sampling_steps


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DiffusionSchedulerConfig:
    """A sampler for noise-predicting models, with diffusers' scheduler of that name.

    Options have the names that diffusers' class gives them; None stands for its default.
    """

    type: Literal["ddim", "pndm", "euler", "heun"] = "ddim"
    num_sampling_steps: int = Field(50, ge=1, le=10_000)  # pndm and heun call the model more often
    cfg_scale: float = Field(7.5, ge=0)
    num_train_timesteps: int | None = Field(None, ge=1)
    beta_start: float | None = Field(None, ge=0, le=1)
    beta_end: float | None = Field(None, ge=0, le=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] | None = None
    clip_sample: bool | None = None
    set_alpha_to_one: bool | None = None
    skip_prk_steps: bool | None = None
    steps_offset: int | None = Field(None, ge=0)
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None

    @property
    def solver(self) -> str:
        """Name of the solver, which is the type."""
        return self.type

    @property
    def num_model_calls(self) -> int:
        """Calls of the model in a run, which a step cache counts as its steps.

        Heun's method calls it twice in every step but the last. PNDM begins with three Runge-Kutta steps of four calls;
        without them, it evaluates its second time twice.

        Source: diffusers' schedulers, `len(scheduler.timesteps)`.
        """
        steps = self.num_sampling_steps
        if self.type == "heun":
            return 2 * steps - 1
        if self.type == "pndm":
            return steps + (_PRK_CALLS if not self.skip_prk_steps else 1 if steps > 1 else 0)
        return steps


# Section -> the dataclasses that its entries may be read into; the first one if they name no type.
SECTIONS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, LatteModelConfig),
    "vae": (VAEConfig, ImageVAEConfig, CausalVAEConfig),
    "text_encoder": (TextEncoderConfig,),
    "scheduler": (SchedulerConfig, DiffusionSchedulerConfig),
}


def types_of(cls: type) -> tuple[str, ...]:
    """Return the values of `type` whose sections are read into `cls`."""
    return get_args(cls.__pydantic_fields__["type"].annotation)


def section_class(section: str, entries: Mapping[str, Any]) -> type:
    """Return the dataclass for the entries of a section; the default one if their type is missing or unknown."""
    classes = SECTIONS[section]
    wanted = entries.get("type")
    return next((cls for cls in classes if isinstance(wanted, str) and wanted in types_of(cls)), classes[0])


# Far beyond what anybody samples: a value above them is a typo, which would use up the memory.
MAX_SIDE = 16_384  # pixels
MAX_SAMPLES = 10_000  # of one prompt


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SampleConfig:
    """Everything one sampling run needs, validated."""

    path: str  # the config file this was read from
    model: ModelConfig | LatteModelConfig = Field(discriminator="type")
    vae: VAEConfig | ImageVAEConfig | CausalVAEConfig = Field(discriminator="type")
    text_encoder: TextEncoderConfig
    scheduler: SchedulerConfig | DiffusionSchedulerConfig = Field(discriminator="type")
    cache: InstanceOf[PolicyConfig] | None  # the config of a policy
    height: int = Field(ge=8, le=MAX_SIDE)  # pixels
    width: int = Field(ge=8, le=MAX_SIDE)
    num_frames: int = Field(ge=1, le=1_000_000)
    fps: int = Field(24, ge=1, le=1000)
    frame_interval: int = Field(1, ge=1)
    save_fps: int = Field(ge=1, le=1000)
    seed: int = Field(1024, ge=0)
    batch_size: int = Field(1, ge=1)
    # replay, a target (speedup, max_steps_computed, min_psnr), draft and final replace the cache.
    replay: str | None = None
    calibration: str | None = None
    speedup: float | None = None
    max_steps_computed: int | None = None
    min_psnr: float | None = None
    draft: int | None = Field(None, ge=1, le=MAX_SAMPLES)
    final: tuple[str, ...] | None = None
    num_sample: int = Field(1, ge=1, le=MAX_SAMPLES)
    dtype: DTypeName = "bf16"
    device: str | None = None
    sequence_parallel: int | None = Field(None, ge=1)
    guidance_parallel: int | None = Field(None, ge=1)
    compile: bool = False
    multi_resolution: Literal["STDiT2"] | None = None
    prompt: tuple[str, ...] | None = None
    prompt_path: str | None = None
    negative_prompt: str = ""
    prompt_as_path: bool = False
    start_index: int = Field(0, ge=0)
    end_index: int | None = Field(None, ge=0)
    aes: float | None = None
    flow: float | None = None
    camera_motion: str | None = None
    llm_refine: bool = False
    llm_endpoint: str | None = None
    llm_model: str | None = None
    reference_path: tuple[str, ...] | None = None
    mask_strategy: tuple[str, ...] | None = None
    loop: int = Field(1, ge=1, le=10_000)
    condition_frame_length: int = Field(5, ge=1)
    condition_frame_edit: float = Field(0.0, ge=0, le=1)
    align: int | None = Field(5, ge=1)  # latent frames of a chunk of the autoencoder; conditions begin at multiples
    compat: bool = False
    save_dir: str = "samples"
    logdate_dir: bool = False
    sample_name: str | None = None
    save_frames: bool = False
    crf: int = Field(18, ge=0, le=51)
    preview: Literal["webp", "apng"] | None = None
    contact_sheet: bool = False
    watermark: bool = False
    watermark_text: str = "AI generated"
    resample: bool = False
    weights_dir: str | None = None
    text_cache: str | None = None
    low_memory: bool = False
    verbose: int = Field(1, ge=0)


# Keys that other Open-Sora configs carry and that change nothing here: section -> keys.
NO_EFFECT: dict[str, frozenset[str]] = {
    "model": frozenset({"enable_flash_attn", "enable_layernorm_kernel", "force_huggingface", "cache_dir"}),
    "vae": frozenset({"force_huggingface", "local_files_only", "cache_dir"}),
    "text_encoder": frozenset({"local_files_only", "shardformer", "cache_dir"}),
    "scheduler": frozenset(),
}

# The official AdaCache options, which stand flat inside `model`.
OFFICIAL_CACHE_KEYS = frozenset(official_options.DEFAULTS) - {"num_sampling_steps"}

# Flags that set an entry of a section; every other flag sets the top-level entry of its own name.
FLAG_KEYS = {
    "num_sampling_steps": "scheduler.num_sampling_steps",
    "solver": "scheduler.solver",
    "cfg_scale": "scheduler.cfg_scale",
    "ckpt_path": "model.from_pretrained",
    "flash_attn": "model.enable_flash_attn",
    "layernorm_kernel": "model.enable_layernorm_kernel",
}
