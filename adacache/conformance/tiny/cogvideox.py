"""CogVideoX."""

from __future__ import annotations

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    VIDEO,
    TinyPipeline,
    finished,
    other,
    randomize,
    rebuilt,
)


def cogvideox() -> diffusers.CogVideoXPipeline:
    """CogVideoX 1.0; its 1.5 also cuts time into patches."""
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
    """The latents of an image are further channels."""
    pipe = cogvideox()
    transformer = rebuilt(pipe.transformer, in_channels=8)
    return finished(diffusers.CogVideoXImageToVideoPipeline(None, None, pipe.vae, transformer, pipe.scheduler))


def cogvideox_video() -> diffusers.CogVideoXVideoToVideoPipeline:
    """A noised video is denoised."""
    pipe = cogvideox()
    return finished(diffusers.CogVideoXVideoToVideoPipeline(None, None, pipe.vae, pipe.transformer, pipe.scheduler))


TINY = {
    "cogvideox": TinyPipeline(
        cogvideox, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 5.0, "max_sequence_length": 6}
    ),
}
OTHERS = {
    "cogvideox_image": other(TINY["cogvideox"], cogvideox_image, image=IMAGE),
    "cogvideox_video": other(TINY["cogvideox"], cogvideox_video, "num_frames", video=VIDEO, strength=1.0),
}
