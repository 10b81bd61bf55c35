"""Models that have no relatives here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers

from adacache.conformance.tiny.ltx import ltx2_vae
from adacache.conformance.tiny.wan import wan_vae
from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TinyPipeline,
    flow_matching,
    noise,
    other,
    transformer,
)


def _latte() -> dict[str, Any]:
    model = transformer(
        "LatteTransformer3DModel",
        attention_head_dim=8,
        out_channels=8,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=5,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=2e-2, clip_sample=False)
    return {"transformer": model, "vae": vae, "scheduler": scheduler}


def _mochi() -> dict[str, Any]:
    model = transformer(
        "MochiTransformer3DModel",
        patch_size=2,
        attention_head_dim=8,
        pooled_projection_dim=8,
        in_channels=12,
        out_channels=None,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return {"transformer": model, "vae": vae, "scheduler": flow_matching()}


def _allegro() -> dict[str, Any]:
    model = transformer(
        "AllegroTransformer3DModel",
        attention_head_dim=12,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
    )
    vae = diffusers.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=16
    )
    return {"transformer": model, "vae": vae, "scheduler": diffusers.EulerAncestralDiscreteScheduler()}


def _sana_video() -> dict[str, Any]:
    model = transformer(
        "SanaVideoTransformer3DModel",
        attention_head_dim=12,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        rope_max_seq_len=32,
    )
    return {"transformer": model, "vae": wan_vae(), "scheduler": flow_matching(3.0)}


def _sana_wm() -> dict[str, Any]:
    model = transformer(
        "SanaWMTransformer3DModel",
        hidden_size=32,
        linear_head_dim=16,
        softmax_every_n=9,  # more than there are blocks: a softmax block's bfloat16 would magnify small differences
        chunk_plucker_channels=12,
        chunk_plucker_post_attn_blocks=4,
        image_size=64,
        mlp_ratio=2.0,
    )
    return {"transformer": model, "vae": ltx2_vae(), "scheduler": flow_matching(3.0)}


def _motif() -> dict[str, Any]:
    """Return components with a decoder, and a guidance that calls each half by name."""
    model = transformer(
        "MotifVideoTransformer3DModel",
        in_channels=9,
        attention_head_dim=12,
        num_layers=3,
        num_single_layers=4,
        num_decoder_layers=2,
        image_embed_dim=8,
        rope_axes_dim=(4, 4, 4),
        enable_text_cross_attention_dual=True,
        enable_text_cross_attention_single=True,
    )
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    return {"transformer": model, "vae": wan_vae(), "scheduler": flow_matching(), "guider": guider}


def _finish_motif_image(pipe: Any) -> None:
    pipe.text_encoder = SimpleNamespace(vision_tower=None)
    pipe._get_image_embeds = lambda **options: noise(7, 1, 3, 8)


def _one_video(seeds: range) -> dict[str, Any]:
    """Return text for one video, with the extra dimension that SANA-WM expects."""
    (seed,) = seeds
    text = {"prompt_embeds": noise(seed, 1, 1, TEXT_TOKENS, TEXT_WIDTH)}
    return {**text, "negative_prompt_embeds": noise(seed + 1000, 1, 1, TEXT_TOKENS, TEXT_WIDTH)}


_SIZE = {"height": 64, "width": 64}
TINY = {
    "latte": TinyPipeline(
        "LattePipeline",
        _latte,
        {**_SIZE, "video_length": 5, "guidance_scale": 5.0, "negative_prompt": None},
        ("transformer_blocks", "temporal_transformer_blocks"),
    ),
    "mochi": TinyPipeline("MochiPipeline", _mochi, {**_SIZE, "num_frames": 13, "guidance_scale": 4.0}, masks=True),
    "allegro": TinyPipeline(
        "AllegroPipeline",
        _allegro,
        {**_SIZE, "num_frames": 8, "guidance_scale": 5.0, "negative_prompt": None},
        masks=True,
    ),
    "sana_video": TinyPipeline(
        "SanaVideoPipeline",
        _sana_video,
        {**_SIZE, "frames": 9, "guidance_scale": 4.0, "negative_prompt": None, "use_resolution_binning": False},
        masks=True,
    ),
    "motif": TinyPipeline(
        "MotifVideoPipeline",
        _motif,
        SMALL,
        ("transformer_blocks", "single_transformer_blocks"),
        masks=True,
        calls_per_step=2,
    ),
}
OTHERS = {
    # The image is the first frame of the latents and has a time of its own.
    "sana_image": other(TINY["sana_video"], "SanaImageToVideoPipeline", {"image": IMAGE}),
    # It follows a camera's path, and makes one video at a time.
    "sana_wm": TinyPipeline(
        "SanaWMPipeline",
        _sana_wm,
        {**SMALL, "guidance_scale": 4.0, "image": IMAGE, "prompt": "", "action": "w-8", "intrinsics": [64, 64, 32, 32]},
        ("blocks",),
        masks=True,
        per_video=_one_video,
    ),
    # The image's features precede the text's; its latents and a mask are extra channels.
    "motif_image": other(
        TINY["motif"], "MotifVideoImage2VideoPipeline", {"image": IMAGE, "prompt": None}, finish=_finish_motif_image
    ),
}
