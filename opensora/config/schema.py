"""What a sampling configuration holds: typed, frozen, with upstream's key names.

Source: the keys and defaults of Open-Sora v1.2's inference configs and ``scripts/inference.py``.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from adacache.options import ReuseOptions

# Far beyond what anybody samples: above them there is a slip of the hand, which would eat the memory first.
MAX_SIDE = 16_384  # pixels
MAX_SAMPLES = 10_000  # of one prompt


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
class VAEConfig:
    """The autoencoder between pixels and latents."""

    from_pretrained: str
    type: Literal["OpenSoraVAE_V1_2"] = "OpenSoraVAE_V1_2"
    micro_frame_size: int | None = at_least(1, 17)  # frames per temporal chunk
    micro_batch_size: int | None = at_least(1, 4)  # frames per pass of the 2-D autoencoder
    tiling: bool = False  # encode and decode in tiles: an eighth of the memory at 720p, the same pixels up to rounding
    tile_size: int | None = at_least(1, None)  # latents per side of a tile; None: 32


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
class SampleConfig:
    """Everything one sampling run needs, validated."""

    path: str  # the config file this was read from
    model: ModelConfig
    vae: VAEConfig
    text_encoder: TextEncoderConfig
    scheduler: SchedulerConfig
    cache: ReuseOptions | None  # the config of a policy
    height: int = at_least(8, at_most=MAX_SIDE)  # pixels
    width: int = at_least(8, at_most=MAX_SIDE)
    num_frames: int = at_least(1, at_most=1_000_000)
    fps: int = at_least(1, 24, at_most=1000)  # what the model is told
    frame_interval: int = at_least(1, 1)
    save_fps: int = at_least(1, at_most=1000)  # what the mp4 plays at
    seed: int = at_least(0, 1024)
    batch_size: int = at_least(1, 1)
    replay: str | None = None  # trace (.json) of a run whose computed steps are repeated; it replaces the cache
    calibration: str | None = None  # schedules that scripts/calibrate.py found for this model; a target picks one
    speedup: float | None = None  # target: denoising so many times as fast as with every step computed
    max_steps_computed: int | None = None  # target: computed steps of a video
    min_psnr: float | None = None  # target: dB to the video without reuse, mean over videos
    draft: int | None = at_least(
        1, None, at_most=MAX_SAMPLES
    )  # videos per prompt, with seeds that count up, under a strong cache
    final: tuple[str, ...] | None = None  # seeds to render again under a weak cache, "SEED" or "PROMPT_INDEX:SEED"
    num_sample: int = at_least(1, 1, at_most=MAX_SAMPLES)  # videos per prompt
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
    llm_refine: bool = False  # rewrite prompts with a language model before they are encoded
    llm_endpoint: str | None = None  # base address of an OpenAI-compatible server, such as http://localhost:8000/v1
    llm_model: str | None = None  # the model that is asked for there
    reference_path: tuple[str, ...] | None = None  # one per prompt ("a.png;b.mp4" for several), or one folder or file
    mask_strategy: tuple[str, ...] | None = None  # where references go, one per prompt or one for all
    loop: int = at_least(1, 1, at_most=10_000)  # clips that continue each other
    condition_frame_length: int = at_least(1, 5)  # latent frames that a clip takes over from the one before
    condition_frame_edit: float = at_least(0, 0.0)  # their edit ratio: 0 keeps them as they are
    align: int | None = at_least(1, 5)  # latent frames of a chunk of the autoencoder; conditions begin at multiples
    compat: bool = False  # repeat what Open-Sora v1.2 gets wrong, see docs/sampling.md
    save_dir: str = "samples"
    logdate_dir: bool = False  # write into a subfolder named by date and time
    sample_name: str | None = None
    save_frames: Literal["npz", "png"] | bool = False  # also keep the exact frames; True is "npz"
    crf: int = at_least(0, 18)  # of the mp4: 0 best, 51 smallest
    preview: Literal["webp", "apng"] | None = None  # also an animated picture
    contact_sheet: bool = False  # one picture of all videos of the run
    watermark: bool = False
    watermark_text: str = "AI generated"
    resample: bool = False  # sample again what is finished already
    weights_dir: str | None = None  # folder of downloaded weights, searched before the hub's cache
    text_cache: str | None = None  # folder of encoded prompts, "off" for none; None: the user's cache folder
    low_memory: bool = False  # tiled decoding, text encoder in 16 bits, cache in CPU memory, one video at a time
    verbose: int = at_least(0, 1)  # 0 quiet, 1 progress bars, 2 debug messages


# Keys that other Open-Sora configs carry and that change nothing here: section -> keys.
NO_EFFECT: dict[str, frozenset[str]] = {
    "model": frozenset({"enable_flash_attn", "enable_layernorm_kernel", "force_huggingface", "cache_dir"}),
    "vae": frozenset({"force_huggingface", "local_files_only", "cache_dir"}),
    "text_encoder": frozenset({"local_files_only", "shardformer", "cache_dir"}),
    "scheduler": frozenset(),
    "": frozenset(),
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
