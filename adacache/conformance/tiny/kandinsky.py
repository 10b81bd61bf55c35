"""Kandinsky."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import torch

from adacache.conformance.tiny.hunyuan import hunyuan_vae
from adacache.conformance.tiny_pipeline import (
    IMAGE,
    POOLED_WIDTH,
    SMALL,
    TEXT_TOKENS,
    TinyPipeline,
    flow_matching,
    other,
    transformer,
)

_OPTIONS = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim2": POOLED_WIDTH,
    "time_dim": 16,
    "model_dim": 24,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 4,
    "axes_dims": (4, 4, 4),
}


def _kandinsky5() -> dict[str, Any]:
    """Return components where a mask and an image's latents, both zero here, are extra channels."""
    model = transformer("Kandinsky5Transformer3DModel", _OPTIONS, visual_cond=True)
    return {"transformer": model, "vae": hunyuan_vae(), "scheduler": flow_matching(5.0)}


def _kandinsky6(**options: Any) -> dict[str, Any]:
    own = {
        "in_audio_dim": 4,
        "out_audio_dim": 4,
        "ca_rope": True,
        "cross_gates": True,
        "fix_modulation": True,
        "visual_token_type_num_embeddings": 2,
    }
    audio_vae = diffusers.MMAudioVAE(
        mel_bins=8,
        latent_channels=4,
        hidden_channels=8,
        layers_per_block=1,
        sample_rate=16000,
        n_fft=256,
        hop_length=256,
    )
    vocoder = diffusers.MMAudioVocoder(
        num_mels=8,
        upsample_initial_channel=8,
        upsample_rates=(16, 16),
        upsample_kernel_sizes=(32, 32),
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3, 5),),
    )
    return {
        "transformer": transformer("Kandinsky6Transformer3DModel", {**_OPTIONS, **own}, **options),
        "vae": hunyuan_vae(),
        "audio_vae": audio_vae,
        "vocoder": vocoder,
        "scheduler": flow_matching(5.0),
    }


def _kandinsky6_distilled() -> dict[str, Any]:
    """Return components of the distilled model, whose scheduler takes the outputs of several times at once."""
    return {**_kandinsky6(out_visual_dim=8, out_audio_dim=8), "scheduler": diffusers.PiflowScheduler(n_grid=2)}


def _lengths(seeds: range) -> dict[str, Any]:
    ends = torch.arange(len(seeds) + 1) * TEXT_TOKENS
    return {"prompt_cu_seqlens": ends, "negative_prompt_cu_seqlens": ends}


TINY = {
    "kandinsky5": TinyPipeline(
        "Kandinsky5T2VPipeline",
        _kandinsky5,
        {**SMALL, "guidance_scale": 5.0},
        ("visual_transformer_blocks",),
        pooled=True,
        per_video=_lengths,
        names={"prompt_embeds": "prompt_embeds_qwen", "pooled_prompt_embeds": "prompt_embeds_clip"},
        calls_per_step=2,
    ),
    # A picture and its sound.
    "kandinsky6": TinyPipeline(
        "Kandinsky6TI2VAPipeline",
        _kandinsky6,
        {**SMALL, "guidance_scale": 5.0},
        ("visual_transformer_blocks",),
        pooled=True,
        calls_per_step=2,
    ),
}
OTHERS = {
    # The image is the first frame and is not denoised.
    "kandinsky5_image": other(TINY["kandinsky5"], "Kandinsky5I2VPipeline", {"image": IMAGE, "num_frames": 21}),
    "kandinsky6_image": other(TINY["kandinsky6"], "Kandinsky6TI2VAPipeline", {"image": IMAGE}),
    "kandinsky6_silent": other(TINY["kandinsky6"], "Kandinsky6TI2VAPipeline", {"sample_audio": False}),
    # Without guidance.
    "kandinsky6_distilled": replace(
        TINY["kandinsky6"], components=_kandinsky6_distilled, call={**SMALL, "guidance_scale": 1.0}, calls_per_step=1
    ),
}
