"""HunyuanVideo."""

from __future__ import annotations

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    POOLED_WIDTH,
    SMALL,
    TEXT_WIDTH,
    TinyPipeline,
    finished,
    other,
    randomize,
    rebuilt,
)


def hunyuan_video() -> diffusers.HunyuanVideoPipeline:
    """HunyuanVideo: blocks of two streams, then of one."""
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
    vae = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    return finished(
        diffusers.HunyuanVideoPipeline(None, None, randomize(transformer), randomize(vae), scheduler, None, None)
    )


def hunyuan_image() -> diffusers.HunyuanVideoImageToVideoPipeline:
    """Calls both guidance halves without naming them; the latents of an image, and a mask, are further channels."""
    pipe = hunyuan_video()
    transformer = rebuilt(pipe.transformer, in_channels=9, image_condition_type="latent_concat")
    return finished(
        diffusers.HunyuanVideoImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None, None)
    )


def skyreels_image() -> diffusers.HunyuanSkyreelsImageToVideoPipeline:
    """Calls both guidance halves without naming them; the latents of an image are further channels."""
    pipe = hunyuan_video()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(
        diffusers.HunyuanSkyreelsImageToVideoPipeline(None, None, transformer, pipe.vae, pipe.scheduler, None, None)
    )


TINY = {
    "hunyuan_video": TinyPipeline(
        hunyuan_video,
        ("transformer_blocks", "single_transformer_blocks"),
        {**SMALL, "num_frames": 9, "guidance_scale": 4.0, "true_cfg_scale": 2.0},
        masks=True,
        pooled=True,
        calls_per_step=2,
    ),
}
OTHERS = {
    "hunyuan_image": other(TINY["hunyuan_video"], hunyuan_image, image=IMAGE),
    "skyreels_image": other(TINY["hunyuan_video"], skyreels_image, image=IMAGE),
}
