"""What a sampling configuration holds: typed, frozen, with upstream's key names.

Source: the keys and defaults of Open-Sora v1.2's inference configs and ``scripts/inference.py``.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from adacache.options import ReuseOptions


def at_least(minimum: float, default: Any = MISSING) -> Any:
    """A dataclass field whose numbers must not be smaller than ``minimum``."""
    return field(default=default, metadata={"minimum": minimum})


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion transformer."""

    from_pretrained: str  # folder or Hugging Face repository
    type: Literal["STDiT3-XL/2", "STDiT3"] = "STDiT3-XL/2"
    qk_norm: bool | None = None  # None: as the checkpoint says


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The autoencoder between pixels and latents."""

    from_pretrained: str
    type: Literal["OpenSoraVAE_V1_2"] = "OpenSoraVAE_V1_2"
    micro_frame_size: int | None = at_least(1, 17)  # frames per temporal chunk
    micro_batch_size: int | None = at_least(1, 4)  # frames per pass of the 2-D autoencoder


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The T5 encoder."""

    from_pretrained: str
    type: Literal["t5"] = "t5"
    model_max_length: int = at_least(1, 300)  # tokens
    dtype: Literal["bf16", "fp16", "fp32"] = "fp32"


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """The rectified-flow sampler; the one place that knows the number of steps."""

    type: Literal["rflow"] = "rflow"
    num_sampling_steps: int = at_least(1, 10)
    cfg_scale: float = at_least(0, 4.0)
    use_timestep_transform: bool = False
    use_discrete_timesteps: bool = False
    num_timesteps: int = at_least(1, 1000)
    base_resolution: int = at_least(1, 512 * 512)  # pixels of an image whose timesteps the transform keeps
    solver: Literal["euler", "adams", "midpoint"] = "euler"  # the model is called once per step by all of them


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Everything one sampling run needs, validated."""

    path: str  # the config file this was read from
    model: ModelConfig
    vae: VAEConfig
    text_encoder: TextEncoderConfig
    scheduler: SchedulerConfig
    cache: ReuseOptions | None  # the config of a policy
    height: int = at_least(8)  # pixels
    width: int = at_least(8)
    num_frames: int = at_least(1)
    fps: int = at_least(1, 24)  # what the model is told
    frame_interval: int = at_least(1, 1)
    save_fps: int = at_least(1)  # what the mp4 plays at
    seed: int = at_least(0, 1024)
    batch_size: int = at_least(1, 1)
    replay: str | None = None  # trace (.json) of a run whose computed steps are repeated; it replaces the cache
    calibration: str | None = None  # schedules that scripts/calibrate.py found for this model; a target picks one
    speedup: float | None = None  # target: denoising so many times as fast as with every step computed
    max_steps_computed: int | None = None  # target: computed steps of a video
    min_psnr: float | None = None  # target: dB to the video without reuse, mean over videos
    draft: int | None = at_least(1, None)  # videos per prompt, with seeds that count up, under a strong cache
    final: tuple[str, ...] | None = None  # seeds to render again under a weak cache, "SEED" or "PROMPT_INDEX:SEED"
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    device: str | None = None  # None: CUDA when there is one, else the CPU
    compile: bool = False  # torch.compile the transformer's residual branches; the first steps take longer
    multi_resolution: Literal["STDiT2"] | None = None
    prompt: tuple[str, ...] | None = None
    prompt_path: str | None = None
    prompt_as_path: bool = False
    start_index: int = at_least(0, 0)
    end_index: int | None = at_least(0, None)
    aes: float | None = None  # aesthetic score appended to the prompts
    flow: float | None = None  # motion score
    camera_motion: str | None = None
    save_dir: str = "samples"
    logdate_dir: bool = False  # write into a subfolder named by date and time
    sample_name: str | None = None
    save_frames: bool = False  # also keep the exact frames, as .frames.npz
    verbose: int = at_least(0, 1)  # 0 quiet, 1 progress bars, 2 debug messages


# Keys that other Open-Sora configs carry and that change nothing here: section -> keys.
NO_EFFECT: dict[str, frozenset[str]] = {
    "model": frozenset({"enable_flash_attn", "enable_layernorm_kernel", "force_huggingface", "cache_dir"}),
    "vae": frozenset({"force_huggingface", "local_files_only", "cache_dir"}),
    "text_encoder": frozenset({"local_files_only", "shardformer", "cache_dir"}),
    "scheduler": frozenset(),
    # They shape the conditioning on references and loops, which is not available.
    "": frozenset({"condition_frame_length", "condition_frame_edit", "align"}),
}

# Upstream features that are not available: key -> (values that leave it off, what it would do).
NOT_AVAILABLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "loop": ((None, 1), "extending a video over several loops"),
    "reference_path": ((None, "", [], [""]), "conditioning on a reference image or video"),
    "mask_strategy": ((None, "", [], [""]), "conditioning on a reference image or video"),
    "llm_refine": ((None, False), "rewriting prompts with a language model"),
    "num_sample": ((None, 1), "several samples per prompt"),
    "watermark": ((None, False), "watermarking"),
}

# The official AdaCache options as they stand, flat, inside ``model``.
OFFICIAL_CACHE_KEYS = frozenset(
    {
        "do_cache",
        "cache_res",
        "cache_loc",
        "codebook",
        "apply_moreg",
        "moreg_strides",
        "moreg_steps",
        "moreg_hyp",
        "mograd_mul",
    }
)
