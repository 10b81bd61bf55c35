"""Models that have no relatives here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers

from adacache.conformance.tiny.ltx import ltx2
from adacache.conformance.tiny.wan import wan_vae
from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TinyPipeline,
    finished,
    noise,
    other,
    randomize,
)


def latte() -> diffusers.LattePipeline:
    """Latte with DDIM."""
    transformer = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=TEXT_WIDTH,
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
    return finished(diffusers.LattePipeline(None, None, randomize(vae), randomize(transformer), scheduler))


def mochi() -> diffusers.MochiPipeline:
    """Mochi 1."""
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=4,
        pooled_projection_dim=8,
        in_channels=12,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return finished(diffusers.MochiPipeline(scheduler, randomize(vae), None, None, randomize(transformer)))


def allegro() -> diffusers.AllegroPipeline:
    """Allegro."""
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=TEXT_WIDTH,
    )
    vae = diffusers.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=16
    )
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    return finished(diffusers.AllegroPipeline(None, None, randomize(vae), randomize(transformer), scheduler))


def sana_video() -> diffusers.SanaVideoPipeline:
    """SANA-Video."""
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
        rope_max_seq_len=32,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(diffusers.SanaVideoPipeline(None, None, wan_vae(), randomize(transformer), scheduler))


def sana_image() -> diffusers.SanaImageToVideoPipeline:
    """SANA-Video from an image, which is the first frame of the latents and has a time of its own."""
    pipe = sana_video()
    return finished(diffusers.SanaImageToVideoPipeline(None, None, pipe.vae, pipe.transformer, pipe.scheduler))


def motif() -> diffusers.MotifVideoPipeline:
    """Motif-Video with a decoder; its guidance is a component that calls each half by name."""
    transformer = diffusers.MotifVideoTransformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        num_single_layers=4,
        num_decoder_layers=2,
        text_embed_dim=TEXT_WIDTH,
        image_embed_dim=8,
        rope_axes_dim=(4, 4, 4),
        enable_text_cross_attention_dual=True,
        enable_text_cross_attention_single=True,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=4.0)
    return finished(diffusers.MotifVideoPipeline(scheduler, wan_vae(), None, None, randomize(transformer), guider))


def motif_image() -> diffusers.MotifVideoImage2VideoPipeline:
    """Motif-Video from an image: its features precede the text's; its latents and a mask are extra channels."""
    pipe = motif()
    pipe = diffusers.MotifVideoImage2VideoPipeline(
        pipe.scheduler, pipe.vae, None, None, pipe.transformer, pipe.guider, None
    )
    pipe.text_encoder = SimpleNamespace(vision_tower=None)
    pipe._get_image_embeds = lambda **options: noise(7, 1, 3, 8)
    return finished(pipe)


def sana_wm() -> diffusers.SanaWMPipeline:
    """SANA-WM, which follows a camera's path; it makes one video at a time."""
    transformer = diffusers.SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=4,
        hidden_size=32,
        num_attention_heads=2,
        linear_head_dim=16,
        softmax_every_n=9,  # more than there are blocks: a softmax block's bfloat16 would magnify small differences
        chunk_plucker_channels=12,
        chunk_plucker_post_attn_blocks=4,
        image_size=64,
        caption_channels=TEXT_WIDTH,
        mlp_ratio=2.0,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(diffusers.SanaWMPipeline(None, None, ltx2().vae, randomize(transformer), scheduler))


def _one_video(seeds: range) -> dict[str, Any]:
    """Return text for one video, with the extra dimension that SANA-WM expects."""
    (seed,) = seeds
    text = {"prompt_embeds": noise(seed, 1, 1, TEXT_TOKENS, TEXT_WIDTH)}
    return {**text, "negative_prompt_embeds": noise(seed + 1000, 1, 1, TEXT_TOKENS, TEXT_WIDTH)}


TINY = {
    "latte": TinyPipeline(
        latte,
        ("transformer_blocks", "temporal_transformer_blocks"),
        {**SMALL, "video_length": 5, "guidance_scale": 5.0, "negative_prompt": None},
    ),
    "mochi": TinyPipeline(
        mochi, ("transformer_blocks",), {**SMALL, "num_frames": 13, "guidance_scale": 4.0}, masks=True
    ),
    "allegro": TinyPipeline(
        allegro,
        ("transformer_blocks",),
        {**SMALL, "num_frames": 8, "guidance_scale": 5.0, "negative_prompt": None},
        masks=True,
    ),
    "sana_video": TinyPipeline(
        sana_video,
        ("transformer_blocks",),
        {**SMALL, "frames": 9, "guidance_scale": 4.0, "negative_prompt": None, "use_resolution_binning": False},
        masks=True,
    ),
    "motif": TinyPipeline(
        motif,
        ("transformer_blocks", "single_transformer_blocks"),
        {**SMALL, "num_frames": 9},
        masks=True,
        calls_per_step=2,
    ),
}
OTHERS = {
    "sana_image": other(TINY["sana_video"], sana_image, image=IMAGE),
    "sana_wm": TinyPipeline(
        sana_wm,
        ("blocks",),
        {
            **SMALL,
            "num_frames": 9,
            "guidance_scale": 4.0,
            "image": IMAGE,
            "prompt": "",
            "action": "w-8",
            "intrinsics": [64, 64, 32, 32],
        },
        masks=True,
        per_video=_one_video,
    ),
    "motif_image": other(TINY["motif"], motif_image, image=IMAGE, prompt=None),
}
