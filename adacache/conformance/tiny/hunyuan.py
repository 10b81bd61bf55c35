"""HunyuanVideo, HunyuanVideo 1.5 and FramePack."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    POOLED_WIDTH,
    SMALL,
    TEXT_TOKENS,
    TinyPipeline,
    flow_matching,
    noise,
    other,
    transformer,
)


def hunyuan_vae() -> Any:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def _hunyuan_video(kind: str = "HunyuanVideoTransformer3DModel", **options: Any) -> dict[str, Any]:
    """Return components with dual-stream blocks, then single-stream blocks."""
    own = {
        "attention_head_dim": 10,
        "num_layers": 3,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "patch_size": 2,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "pooled_projection_dim": POOLED_WIDTH,
        "rope_axes_dim": (2, 4, 4),
    }
    return {"transformer": transformer(kind, own, **options), "vae": hunyuan_vae(), "scheduler": flow_matching(7.0)}


def _hunyuan_video15() -> dict[str, Any]:
    model = transformer(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        attention_head_dim=10,
        num_refiner_layers=1,
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
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    return {"transformer": model, "vae": vae, "scheduler": flow_matching(7.0), "guider": guider}


def _finish15(pipe: Any) -> None:
    pipe.vision_num_semantic_tokens = 3
    pipe.encode_image = lambda image, batch_size, device, dtype: noise(7, 1, 3, 8).repeat(batch_size, 1, 1)


def _finish_framepack(pipe: Any) -> None:
    pipe.encode_image = lambda image, device: noise(7, 1, 3, 8).repeat(len(image), 1, 1)


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
        "HunyuanVideoPipeline",
        _hunyuan_video,
        {**SMALL, "guidance_scale": 4.0, "true_cfg_scale": 2.0},
        ("transformer_blocks", "single_transformer_blocks"),
        masks=True,
        pooled=True,
        calls_per_step=2,
    ),
    # Its guidance is a component that calls each half by name.
    "hunyuan_video15": TinyPipeline(
        "HunyuanVideo15Pipeline", _hunyuan_video15, SMALL, finish=_finish15, per_video=_second_text, calls_per_step=2
    ),
}
# It denoises a video in sections, each with tokens of the frames before it.
TINY["framepack"] = other(
    TINY["hunyuan_video"],
    "HunyuanVideoFramepackPipeline",
    {"latent_window_size": 3},
    options={
        "kind": "HunyuanVideoFramepackTransformer3DModel",
        "has_image_proj": True,
        "image_proj_dim": 8,
        "has_clean_x_embedder": True,
    },
    finish=_finish_framepack,
    per_video=lambda seeds: {"image": [IMAGE for _ in seeds]},
)
OTHERS = {
    # The image's features precede the text's; its latents and a mask are extra channels.
    "hunyuan_image15": TinyPipeline(
        "HunyuanVideo15ImageToVideoPipeline",
        _hunyuan_video15,
        {"num_frames": 9, "image": IMAGE},
        finish=_finish15,
        per_video=_second_text,
        calls_per_step=2,
    ),
    # These two name no guidance half; the image's latents, and a mask in the first one, are extra channels.
    "hunyuan_image": other(
        TINY["hunyuan_video"],
        "HunyuanVideoImageToVideoPipeline",
        {"image": IMAGE},
        options={"in_channels": 9, "image_condition_type": "latent_concat"},
    ),
    "skyreels_image": other(
        TINY["hunyuan_video"], "HunyuanSkyreelsImageToVideoPipeline", {"image": IMAGE}, options={"in_channels": 8}
    ),
}
