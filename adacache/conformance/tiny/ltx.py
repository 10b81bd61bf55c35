"""LTX-Video."""

from __future__ import annotations

import diffusers

from adacache.conformance.tiny_pipeline import IMAGE, SMALL, TEXT_WIDTH, TinyPipeline, finished, other, randomize


def ltx() -> diffusers.LTXPipeline:
    """LTX-Video."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=TEXT_WIDTH,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return finished(diffusers.LTXPipeline(scheduler, randomize(vae), None, None, randomize(transformer)))


def ltx_condition() -> diffusers.LTXConditionPipeline:
    """Tokens of conditions stand before those of the video."""
    pipe = ltx()
    return finished(diffusers.LTXConditionPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


def ltx_image() -> diffusers.LTXImageToVideoPipeline:
    """The tokens of the image have a time of their own."""
    pipe = ltx()
    return finished(diffusers.LTXImageToVideoPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


TINY = {
    "ltx": TinyPipeline(ltx, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 3.0}, masks=True),
}
OTHERS = {
    "ltx_condition": other(TINY["ltx"], ltx_condition, image=IMAGE, frame_index=8, num_frames=17),
    "ltx_image": other(TINY["ltx"], ltx_image, image=IMAGE),
}
