"""Wan, and networks that are built like it."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_WIDTH,
    VIDEO,
    TinyPipeline,
    finished,
    noise,
    other,
    randomize,
    rebuilt,
)


def _wan_transformer(seed: int, cls: type = diffusers.WanTransformer3DModel, **options: Any) -> Any:
    own = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": TEXT_WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 4,
        "rope_max_seq_len": 32,
    }
    known = inspect.signature(cls).parameters
    return randomize(cls(**{name: value for name, value in {**own, **options}.items() if name in known}), seed)


def wan_vae() -> diffusers.AutoencoderKLWan:
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return randomize(vae)


def wan() -> diffusers.WanPipeline:
    """Wan 2.1."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(diffusers.WanPipeline(None, None, wan_vae(), scheduler, _wan_transformer(0)))


def wan22() -> diffusers.WanPipeline:
    """Wan 2.2, with a high-noise and a low-noise transformer."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(
        diffusers.WanPipeline(
            None, None, wan_vae(), scheduler, _wan_transformer(0), _wan_transformer(1), boundary_ratio=0.8
        )
    )


def wan_vace() -> diffusers.WanVACEPipeline:
    """Wan VACE, with hints for two of its blocks; the pipeline prepares one video at a time."""
    transformer = _wan_transformer(0, diffusers.WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=72)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.WanVACEPipeline(None, None, vae=wan_vae(), scheduler=scheduler, transformer=transformer)
    latents_of, mask_of = pipe.prepare_video_latents, pipe.prepare_masks
    pipe.prepare_video_latents = lambda videos, masks, *_: torch.cat(
        [latents_of(video[None], mask[None], [[]]) for video, mask in zip(videos, masks, strict=True)]
    )
    pipe.prepare_masks = lambda masks, *_: torch.cat([mask_of(mask[None], [[]]) for mask in masks])
    return finished(pipe)


def wan_animate() -> diffusers.WanAnimatePipeline:
    """Wan Animate, with a face and a pose in every frame but the first, which is an image."""
    transformer = _wan_transformer(
        0,
        diffusers.WanAnimateTransformer3DModel,
        in_channels=12,
        latent_channels=4,
        image_dim=8,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.WanAnimatePipeline(None, None, wan_vae(), scheduler, None, None, transformer)
    pipe.encode_image = lambda image, device: noise(7, 1, 5, 8)
    return finished(pipe)


def chronoedit() -> diffusers.ChronoEditPipeline:
    """ChronoEdit with UniPC, a multistep scheduler; it calls both guidance halves without naming them."""
    transformer = _wan_transformer(0, diffusers.ChronoEditTransformer3DModel, in_channels=12, image_dim=8)
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipe = diffusers.ChronoEditPipeline(None, None, None, None, transformer, wan_vae(), scheduler)
    pipe.encode_image = lambda image, device: noise(7, 1, 5, 8)
    return finished(pipe)


def helios() -> diffusers.HeliosPipeline:
    """Helios, which denoises a video in sections, each with tokens of the frames before it."""
    transformer = _wan_transformer(0, diffusers.HeliosTransformer3DModel, rope_dim=(4, 4, 4))
    scheduler = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    return finished(diffusers.HeliosPipeline(None, None, wan_vae(), scheduler, transformer))


def lucy_edit() -> diffusers.LucyEditPipeline:
    """Lucy Edit: the latents of the edited video are extra channels, and every token has a time."""
    pipe = wan()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(
        diffusers.LucyEditPipeline(None, None, pipe.vae, pipe.scheduler, transformer=transformer, expand_timesteps=True)
    )


def skyreels_v2() -> diffusers.SkyReelsV2Pipeline:
    """SkyReels-V2 with UniPC, a multistep scheduler."""
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    transformer = _wan_transformer(0, diffusers.SkyReelsV2Transformer3DModel)
    return finished(diffusers.SkyReelsV2Pipeline(None, None, transformer, wan_vae(), scheduler))


def wan_image(**options: Any) -> diffusers.WanImageToVideoPipeline:
    """Wan from an image, whose latents and a mask are extra channels."""
    pipe = wan()
    transformer = rebuilt(pipe.transformer, in_channels=12)
    return finished(
        diffusers.WanImageToVideoPipeline(None, None, pipe.vae, pipe.scheduler, transformer=transformer, **options)
    )


def wan_tokens() -> diffusers.WanImageToVideoPipeline:
    """Wan 2.2 TI2V: the tokens of the image have a time of their own."""
    pipe = wan()
    return finished(
        diffusers.WanImageToVideoPipeline(
            None, None, pipe.vae, pipe.scheduler, transformer=pipe.transformer, expand_timesteps=True
        )
    )


def wan_video() -> diffusers.WanVideoToVideoPipeline:
    """Wan from a video; it calls both guidance halves without naming them."""
    pipe = wan()
    return finished(diffusers.WanVideoToVideoPipeline(None, None, pipe.transformer, pipe.vae, pipe.scheduler))


def skyreels_v2_image() -> diffusers.SkyReelsV2ImageToVideoPipeline:
    """SkyReels-V2 from an image: its latents and a mask are extra channels, and its features precede the text's."""
    pipe = skyreels_v2()
    transformer = rebuilt(pipe.transformer, in_channels=12, image_dim=8)
    pipe = diffusers.SkyReelsV2ImageToVideoPipeline(None, None, None, None, transformer, pipe.vae, pipe.scheduler)
    pipe.encode_image = lambda image, device: noise(7, 1, 5, 8)
    return finished(pipe)


TINY = {
    "wan": TinyPipeline(wan, ("blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2),
    "wan22": TinyPipeline(wan22, ("blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2),
    "wan_vace": TinyPipeline(
        wan_vace,
        ("blocks",),
        {**SMALL, "num_frames": 9, "guidance_scale": 4.0},
        per_video=lambda seeds: {
            name: torch.stack([noise(seed + offset, 9, 3, 64, 64).sigmoid() for seed in seeds])
            for name, offset in (("video", 6000), ("mask", 7000))
        },
        calls_per_step=2,
        since="0.36.0",  # before, it did not take precomputed text embeddings
    ),
    "wan_animate": TinyPipeline(
        wan_animate,
        ("blocks",),
        {
            "height": 32,
            "width": 32,
            "segment_frame_length": 9,
            "guidance_scale": 4.0,
            "image": IMAGE,
            "pose_video": VIDEO,
            "face_video": [image.resize((16, 16)) for image in VIDEO],
        },
        calls_per_step=2,
    ),
    "chronoedit": TinyPipeline(
        chronoedit,
        ("blocks",),
        {**SMALL, "num_frames": 9, "guidance_scale": 4.0, "image": IMAGE},
        calls_per_step=2,
    ),
    "helios": TinyPipeline(
        helios,
        ("blocks",),
        {**SMALL, "num_frames": 9, "num_latent_frames_per_chunk": 3, "guidance_scale": 4.0},
        calls_per_step=2,
    ),
    "skyreels_v2": TinyPipeline(
        skyreels_v2, ("blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 4.0}, calls_per_step=2
    ),
}
OTHERS = {
    "lucy_edit": other(TINY["wan"], lucy_edit, video=VIDEO),
    "wan_image": other(TINY["wan"], wan_image, image=IMAGE),
    "wan_tokens": other(TINY["wan"], wan_tokens, image=IMAGE),
    "wan_video": other(TINY["wan"], wan_video, "num_frames", video=VIDEO, strength=1.0),
    "skyreels_v2_image": other(TINY["skyreels_v2"], skyreels_v2_image, image=IMAGE),
}
