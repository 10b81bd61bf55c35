"""CogVideoX, ConsisID and EasyAnimate."""

from __future__ import annotations

from typing import Any

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_TOKENS,
    VIDEO,
    TinyPipeline,
    flow_matching,
    noise,
    other,
    transformer,
)

_COGVIDEOX = {
    "attention_head_dim": 16,
    "time_embed_dim": 8,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": TEXT_TOKENS,
    "use_rotary_positional_embeddings": True,
}


def _cogvideox(kind: str = "CogVideoXTransformer3DModel", **options: Any) -> dict[str, Any]:
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
    return {"transformer": transformer(kind, _COGVIDEOX, **options), "vae": vae, "scheduler": scheduler}


def _easyanimate(**options: Any) -> dict[str, Any]:
    """Return components with blocks that have separate weights for the text and blocks that do not."""
    own = {
        "attention_head_dim": 16,
        "patch_size": 2,
        "mmdit_layers": 2,
        "time_embed_dim": 8,
        "resize_inpaint_mask_directly": False,
        "add_noise_in_inpaint_model": False,
    }
    vae = diffusers.AutoencoderKLMagvit(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2
    )
    model = transformer("EasyAnimateTransformer3DModel", own, **options)
    return {"transformer": model, "vae": vae, "scheduler": flow_matching()}


_CALL = {**SMALL, "guidance_scale": 5.0}
TINY = {
    # Version 1.0; 1.5 also groups frames into patches.
    "cogvideox": TinyPipeline("CogVideoXPipeline", _cogvideox, {**_CALL, "max_sequence_length": 6}),
    # The latents of an image are extra channels, and features of a face are added to the hidden states.
    "consisid": TinyPipeline(
        "ConsisIDPipeline",
        _cogvideox,
        {
            **_CALL,
            "max_sequence_length": 6,
            "id_cond": noise(7, 1, 8),
            "id_vit_hidden": [noise(seed, 1, 3, 8) for seed in (8, 9)],
        },
        options={
            "kind": "ConsisIDTransformer3DModel",
            "in_channels": 8,
            "is_train_face": True,
            "cross_attn_dim_head": 8,
            "cross_attn_num_heads": 2,
            "LFE_id_dim": 8,
            "LFE_vit_dim": 8,
            "LFE_depth": 2,
            "LFE_dim_head": 8,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 2,
            "LFE_num_querie": 2,
            "LFE_output_dim": 21,  # two thirds of the hidden states' width
            "LFE_ff_mult": 1,
            "LFE_num_scale": 2,
        },
        per_video=lambda seeds: {"image": [IMAGE for _ in seeds]},
    ),
    "easyanimate": TinyPipeline("EasyAnimatePipeline", _easyanimate, _CALL, masks=True),
}
OTHERS = {
    # The latents of a control video, or of an image, are extra channels.
    "cogvideox_control": other(
        TINY["cogvideox"],
        "CogVideoXFunControlPipeline",
        {"control_video": VIDEO},
        without="num_frames",
        options={"in_channels": 8},
    ),
    "cogvideox_image": other(
        TINY["cogvideox"], "CogVideoXImageToVideoPipeline", {"image": IMAGE}, options={"in_channels": 8}
    ),
    # It begins with a noised video.
    "cogvideox_video": other(
        TINY["cogvideox"], "CogVideoXVideoToVideoPipeline", {"video": VIDEO, "strength": 1.0}, without="num_frames"
    ),
    # The latents of a masked video, and the mask, are a separate argument.
    "easyanimate_inpaint": other(
        TINY["easyanimate"],
        "EasyAnimateInpaintPipeline",
        {"video": noise(7, 1, 3, 9, 64, 64).sigmoid(), "mask_video": noise(8, 1, 1, 9, 64, 64).sigmoid()},
        options={"in_channels": 12},
    ),
}
