"""What a sampling configuration holds: typed, frozen, with upstream's key names.

Source: the keys and defaults of Open-Sora v1.2's inference configs and ``scripts/inference.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adacache.options import ReuseOptions
from opensora.config.sections import (
    CausalVAEConfig,
    DiffusionSchedulerConfig,
    ImageVAEConfig,
    LatteModelConfig,
    ModelConfig,
    SchedulerConfig,
    TextEncoderConfig,
    VAEConfig,
    at_least,
)

__all__ = [
    "NO_EFFECT",
    "OFFICIAL_CACHE_KEYS",
    "CausalVAEConfig",
    "DiffusionSchedulerConfig",
    "ImageVAEConfig",
    "LatteModelConfig",
    "ModelConfig",
    "SampleConfig",
    "SchedulerConfig",
    "TextEncoderConfig",
    "VAEConfig",
]

# Far beyond what anybody samples: above them there is a slip of the hand, which would eat the memory first.
MAX_SIDE = 16_384  # pixels
MAX_SAMPLES = 10_000  # of one prompt


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Everything one sampling run needs, validated."""

    path: str  # the config file this was read from
    model: ModelConfig | LatteModelConfig
    vae: VAEConfig | ImageVAEConfig | CausalVAEConfig
    text_encoder: TextEncoderConfig
    scheduler: SchedulerConfig | DiffusionSchedulerConfig
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
    sequence_parallel: int | None = at_least(1, None)  # processes that split a video's frames; None: chosen by the run
    guidance_parallel: int | None = at_least(1, None)  # 2: its guidance branches on processes of their own
    compile: bool = False  # torch.compile the blocks of the transformer; the first steps take longer
    multi_resolution: Literal["STDiT2"] | None = None
    prompt: tuple[str, ...] | None = None
    prompt_path: str | None = None
    negative_prompt: str = ""  # what videos are guided away from, by models without an empty caption of their own
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
