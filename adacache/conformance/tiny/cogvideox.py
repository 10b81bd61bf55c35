"""CogVideoX, ConsisID and EasyAnimate."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    VIDEO,
    TinyPipeline,
    finished,
    noise,
    other,
    randomize,
    rebuilt,
)


def cogvideox() -> diffusers.CogVideoXPipeline:
    """CogVideoX 1.0; version 1.5 also groups frames into patches."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        num_layers=4,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=64,
        sample_width=64,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler()
    return finished(diffusers.CogVideoXPipeline(None, None, randomize(vae), randomize(transformer), scheduler))


def cogvideox_image() -> diffusers.CogVideoXImageToVideoPipeline:
    """CogVideoX with the latents of an image as extra channels."""
    pipe = cogvideox()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(diffusers.CogVideoXImageToVideoPipeline(None, None, pipe.vae, transformer, pipe.scheduler))


def cogvideox_video() -> diffusers.CogVideoXVideoToVideoPipeline:
    """CogVideoX that begins with a noised video."""
    pipe = cogvideox()
    return finished(diffusers.CogVideoXVideoToVideoPipeline(None, None, pipe.vae, pipe.transformer, pipe.scheduler))


def cogvideox_control() -> diffusers.CogVideoXFunControlPipeline:
    """CogVideoX with the latents of a control video as extra channels."""
    pipe = cogvideox()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(diffusers.CogVideoXFunControlPipeline(None, None, pipe.vae, transformer, pipe.scheduler))


def consisid() -> diffusers.ConsisIDPipeline:
    """ConsisID: the latents of an image are extra channels, and features of a face are added to the hidden states."""
    pipe = cogvideox()
    options = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    known = inspect.signature(diffusers.ConsisIDTransformer3DModel).parameters
    transformer = diffusers.ConsisIDTransformer3DModel(
        **{name: value for name, value in options.items() if name in known} | {"in_channels": 8},
        is_train_face=True,
        cross_attn_dim_head=8,
        cross_attn_num_heads=2,
        LFE_id_dim=8,
        LFE_vit_dim=8,
        LFE_depth=2,
        LFE_dim_head=8,
        LFE_num_heads=2,
        LFE_num_id_token=2,
        LFE_num_querie=2,
        LFE_output_dim=21,  # two thirds of the hidden states' width
        LFE_ff_mult=1,
        LFE_num_scale=2,
    )
    return finished(diffusers.ConsisIDPipeline(None, None, pipe.vae, randomize(transformer), pipe.scheduler))


def _easyanimate(cls: Any, in_channels: int = 4) -> Any:
    transformer = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        out_channels=4,
        patch_size=2,
        num_layers=4,
        mmdit_layers=2,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        resize_inpaint_mask_directly=False,
        add_noise_in_inpaint_model=False,
    )
    vae = diffusers.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return finished(cls(randomize(vae), None, None, randomize(transformer), scheduler))


def easyanimate() -> diffusers.EasyAnimatePipeline:
    """EasyAnimate, with blocks that have separate weights for the text and blocks that do not."""
    return _easyanimate(diffusers.EasyAnimatePipeline)


def easyanimate_inpaint() -> diffusers.EasyAnimateInpaintPipeline:
    """EasyAnimate with the latents of a masked video, and the mask, as a separate argument."""
    return _easyanimate(diffusers.EasyAnimateInpaintPipeline, in_channels=12)


TINY = {
    "cogvideox": TinyPipeline(
        cogvideox, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 5.0, "max_sequence_length": 6}
    ),
    "consisid": TinyPipeline(
        consisid,
        ("transformer_blocks",),
        {
            **SMALL,
            "num_frames": 9,
            "guidance_scale": 5.0,
            "max_sequence_length": 6,
            "id_cond": noise(7, 1, 8),
            "id_vit_hidden": [noise(seed, 1, 3, 8) for seed in (8, 9)],
        },
        per_video=lambda seeds: {"image": [IMAGE for _ in seeds]},
    ),
    "easyanimate": TinyPipeline(
        easyanimate, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 5.0}, masks=True
    ),
}
OTHERS = {
    "cogvideox_control": other(TINY["cogvideox"], cogvideox_control, "num_frames", control_video=VIDEO),
    "easyanimate_inpaint": other(
        TINY["easyanimate"],
        easyanimate_inpaint,
        video=noise(7, 1, 3, 9, 64, 64).sigmoid(),
        mask_video=noise(8, 1, 1, 9, 64, 64).sigmoid(),
    ),
    "cogvideox_image": other(TINY["cogvideox"], cogvideox_image, image=IMAGE),
    "cogvideox_video": other(TINY["cogvideox"], cogvideox_video, "num_frames", video=VIDEO, strength=1.0),
}
