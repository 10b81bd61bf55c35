"""Wan, and networks that are built like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch import nn

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    VIDEO,
    TinyPipeline,
    flow_matching,
    multistep,
    noise,
    other,
    transformer,
)

_OPTIONS = {"patch_size": (1, 2, 2), "attention_head_dim": 12, "freq_dim": 16, "ffn_dim": 32, "rope_max_seq_len": 32}


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _transformer(kind: str = "WanTransformer3DModel", **options: Any) -> nn.Module:
    return transformer(kind, _OPTIONS, **options)


def _wan(expand_timesteps: bool = False, **options: Any) -> dict[str, Any]:
    return {
        "transformer": _transformer(**options),
        "vae": wan_vae(),
        "scheduler": flow_matching(3.0),
        "expand_timesteps": expand_timesteps,  # whether every token has a time of its own
    }


def _wan22() -> dict[str, Any]:
    """Return components with a high-noise and a low-noise transformer."""
    return {**_wan(), "transformer_2": _transformer(), "boundary_ratio": 0.8}


def _with_multistep(**options: Any) -> dict[str, Any]:
    return {**_wan(**options), "scheduler": multistep()}


def _helios() -> dict[str, Any]:
    scheduler = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
    return {**_wan(kind="HeliosTransformer3DModel", rope_dim=(4, 4, 4)), "scheduler": scheduler}


def _one_by_one(pipe: Any) -> None:
    """Let Wan VACE, which prepares one video at a time, prepare several."""
    latents_of, mask_of = pipe.prepare_video_latents, pipe.prepare_masks
    pipe.prepare_video_latents = lambda videos, masks, *_: torch.cat(
        [latents_of(video[None], mask[None], [[]]) for video, mask in zip(videos, masks, strict=True)]
    )
    pipe.prepare_masks = lambda masks, *_: torch.cat([mask_of(mask[None], [[]]) for mask in masks])


def _encode_image(pipe: Any) -> None:
    """Replace the image encoder."""
    pipe.encode_image = lambda image, device: noise(7, 1, 5, 8)


_WAN = TinyPipeline("WanPipeline", _wan, {**SMALL, "guidance_scale": 4.0}, ("blocks",), calls_per_step=2)
TINY = {
    "wan": _WAN,
    "wan22": replace(_WAN, components=_wan22),
    # Hints for two of its blocks.
    "wan_vace": other(
        _WAN,
        "WanVACEPipeline",
        options={"kind": "WanVACETransformer3DModel", "vace_layers": [0, 2], "vace_in_channels": 72},
        finish=_one_by_one,
        per_video=lambda seeds: {
            name: torch.stack([noise(seed + offset, 9, 3, 64, 64).sigmoid() for seed in seeds])
            for name, offset in (("video", 6000), ("mask", 7000))
        },
        since="0.36.0",  # before, it did not take precomputed text embeddings
    ),
    # A face and a pose in every frame but the first, which is an image.
    "wan_animate": replace(
        _WAN,
        pipeline="WanAnimatePipeline",
        call={
            "height": 32,
            "width": 32,
            "segment_frame_length": 9,
            "guidance_scale": 4.0,
            "image": IMAGE,
            "pose_video": VIDEO,
            "face_video": [image.resize((16, 16)) for image in VIDEO],
        },
        options={
            "kind": "WanAnimateTransformer3DModel",
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 8,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 8,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 2,
        },
        finish=_encode_image,
    ),
    # It calls both guidance halves without naming them.
    "chronoedit": other(
        _WAN,
        "ChronoEditPipeline",
        {"image": IMAGE},
        components=_with_multistep,
        options={"kind": "ChronoEditTransformer3DModel", "in_channels": 12, "image_dim": 8},
        finish=_encode_image,
    ),
    # It denoises a video in sections, each with tokens of the frames before it.
    "helios": other(_WAN, "HeliosPipeline", {"num_latent_frames_per_chunk": 3}, components=_helios),
    "skyreels_v2": other(
        _WAN, "SkyReelsV2Pipeline", components=_with_multistep, options={"kind": "SkyReelsV2Transformer3DModel"}
    ),
}
OTHERS = {
    # The latents of the edited video are extra channels, and every token has a time.
    "lucy_edit": other(
        _WAN, "LucyEditPipeline", {"video": VIDEO}, options={"in_channels": 8, "expand_timesteps": True}
    ),
    # The image's latents and a mask are extra channels.
    "wan_image": other(_WAN, "WanImageToVideoPipeline", {"image": IMAGE}, options={"in_channels": 12}),
    # Wan 2.2 TI2V: the tokens of the image have a time of their own.
    "wan_tokens": other(_WAN, "WanImageToVideoPipeline", {"image": IMAGE}, options={"expand_timesteps": True}),
    # It calls both guidance halves without naming them.
    "wan_video": other(_WAN, "WanVideoToVideoPipeline", {"video": VIDEO, "strength": 1.0}, without="num_frames"),
    # The image's latents and a mask are extra channels, and its features precede the text's.
    "skyreels_v2_image": other(
        TINY["skyreels_v2"],
        "SkyReelsV2ImageToVideoPipeline",
        {"image": IMAGE},
        options={"kind": "SkyReelsV2Transformer3DModel", "in_channels": 12, "image_dim": 8},
        finish=_encode_image,
    ),
}
