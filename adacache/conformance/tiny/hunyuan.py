"""HunyuanVideo, HunyuanVideo 1.5 and FramePack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import torch

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    POOLED_WIDTH,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TinyPipeline,
    finished,
    noise,
    other,
    randomize,
    rebuilt,
)


def hunyuan_vae() -> diffusers.AutoencoderKLHunyuanVideo:
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    return randomize(vae)


def hunyuan_video() -> diffusers.HunyuanVideoPipeline:
    """HunyuanVideo: dual-stream blocks, then single-stream blocks."""
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=3,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        rope_axes_dim=(2, 4, 4),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    return finished(
        diffusers.HunyuanVideoPipeline(None, None, randomize(transformer), hunyuan_vae(), scheduler, None, None)
    )


def hunyuan_image() -> diffusers.HunyuanVideoImageToVideoPipeline:
    """HunyuanVideo from an image; it names no guidance half, and the image's latents and a mask are extra channels."""
    pipe = hunyuan_video()
    transformer = rebuilt(pipe.transformer, in_channels=9, image_condition_type="latent_concat")
    return finished(
        diffusers.HunyuanVideoImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None, None)
    )


def skyreels_image() -> diffusers.HunyuanSkyreelsImageToVideoPipeline:
    """SkyReels from an image; it names no guidance half, and the image's latents are extra channels."""
    pipe = hunyuan_video()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(
        diffusers.HunyuanSkyreelsImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None)
    )


def _hunyuan_video15(cls: Any, *more: Any) -> Any:
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=4,
        num_refiner_layers=1,
        text_embed_dim=TEXT_WIDTH,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(2, 4, 4),
        target_size=64,
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        spatial_compression_ratio=8,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    pipe = cls(None, None, randomize(transformer), randomize(vae), scheduler, None, None, guider, *more)
    pipe.vision_num_semantic_tokens = 3
    return finished(pipe)


def hunyuan_video15() -> diffusers.HunyuanVideo15Pipeline:
    """HunyuanVideo 1.5, whose guidance is a component that calls each half by name."""
    return _hunyuan_video15(diffusers.HunyuanVideo15Pipeline)


def hunyuan_image15() -> diffusers.HunyuanVideo15ImageToVideoPipeline:
    """HunyuanVideo 1.5 from an image: its features precede the text's; its latents and a mask are extra channels."""
    pipe = _hunyuan_video15(diffusers.HunyuanVideo15ImageToVideoPipeline, None, None)
    pipe.encode_image = lambda image, batch_size, device, dtype: noise(7, 1, 3, 8).repeat(batch_size, 1, 1)
    return pipe


def framepack() -> diffusers.HunyuanVideoFramepackPipeline:
    """FramePack, which denoises a video in sections, each with tokens of the frames before it."""
    pipe = hunyuan_video()
    options = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    transformer = diffusers.HunyuanVideoFramepackTransformer3DModel(
        **options, has_image_proj=True, image_proj_dim=8, has_clean_x_embedder=True
    )
    pipe = diffusers.HunyuanVideoFramepackPipeline(
        None, None, randomize(transformer), pipe.vae, pipe.scheduler, None, None, None, None
    )
    pipe.encode_image = lambda image, device: noise(7, 1, 3, 8).repeat(len(image), 1, 1)
    return finished(pipe)


def _second_text(seeds: range) -> dict[str, Any]:
    """Return masks for the first text, and the second text with its masks."""
    arguments = {}
    for half, offset in (("", 4000), ("negative_", 5000)):
        arguments[f"{half}prompt_embeds_mask"] = torch.ones(len(seeds), TEXT_TOKENS, dtype=torch.long)
        arguments[f"{half}prompt_embeds_2"] = torch.stack([noise(seed + offset, 4, 8) for seed in seeds])
        arguments[f"{half}prompt_embeds_mask_2"] = torch.ones(len(seeds), 4, dtype=torch.long)
    return arguments


TINY = {
    "hunyuan_video": TinyPipeline(
        hunyuan_video,
        ("transformer_blocks", "single_transformer_blocks"),
        {**SMALL, "num_frames": 9, "guidance_scale": 4.0, "true_cfg_scale": 2.0},
        masks=True,
        pooled=True,
        calls_per_step=2,
    ),
    "hunyuan_video15": TinyPipeline(
        hunyuan_video15,
        ("transformer_blocks",),
        {**SMALL, "num_frames": 9},
        per_video=_second_text,
        calls_per_step=2,
    ),
    "framepack": TinyPipeline(
        framepack,
        ("transformer_blocks", "single_transformer_blocks"),
        {**SMALL, "num_frames": 9, "latent_window_size": 3, "guidance_scale": 4.0, "true_cfg_scale": 2.0},
        masks=True,
        pooled=True,
        per_video=lambda seeds: {"image": [IMAGE for _ in seeds]},
        calls_per_step=2,
    ),
}
OTHERS = {
    "hunyuan_image15": replace(TINY["hunyuan_video15"], build=hunyuan_image15, call={"num_frames": 9, "image": IMAGE}),
    "hunyuan_image": other(TINY["hunyuan_video"], hunyuan_image, image=IMAGE),
    "skyreels_image": other(TINY["hunyuan_video"], skyreels_image, image=IMAGE),
}
