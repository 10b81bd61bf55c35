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
    TEXT_WIDTH,
    TinyPipeline,
    finished,
    other,
    randomize,
    rebuilt,
)


def kandinsky5() -> diffusers.Kandinsky5T2VPipeline:
    """Kandinsky 5, where a mask and an image's latents, both zero here, are extra channels."""
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=TEXT_WIDTH,
        in_text_dim2=POOLED_WIDTH,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(4, 4, 4),
        visual_cond=True,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    return finished(
        diffusers.Kandinsky5T2VPipeline(randomize(transformer), hunyuan_vae(), None, None, None, None, scheduler)
    )


def kandinsky5_image() -> diffusers.Kandinsky5I2VPipeline:
    """Kandinsky 5 from an image, which is the first frame and is not denoised."""
    pipe = kandinsky5()
    return finished(diffusers.Kandinsky5I2VPipeline(pipe.transformer, pipe.vae, None, None, None, None, pipe.scheduler))


def kandinsky6() -> diffusers.Kandinsky6TI2VAPipeline:
    """Kandinsky 6, which denoises a picture and its sound."""
    transformer = diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=TEXT_WIDTH,
        in_text_dim2=POOLED_WIDTH,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=4,
        axes_dims=(4, 4, 4),
        in_audio_dim=4,
        out_audio_dim=4,
        ca_rope=True,
        cross_gates=True,
        fix_modulation=True,
        visual_token_type_num_embeddings=2,
    )
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
    models = (randomize(model) for model in (audio_vae, vocoder))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    return finished(
        diffusers.Kandinsky6TI2VAPipeline(
            randomize(transformer), hunyuan_vae(), None, None, None, None, scheduler, *models
        )
    )


def kandinsky6_distilled() -> diffusers.Kandinsky6TI2VAPipeline:
    """The distilled Kandinsky 6, without guidance; its own scheduler takes the outputs of several times at once."""
    pipe = kandinsky6()
    pipe.transformer = rebuilt(pipe.transformer, out_visual_dim=8, out_audio_dim=8)
    pipe.scheduler = diffusers.PiflowScheduler(n_grid=2)
    return finished(pipe)


def _lengths(seeds: range) -> dict[str, Any]:
    ends = torch.arange(len(seeds) + 1) * TEXT_TOKENS
    return {"prompt_cu_seqlens": ends, "negative_prompt_cu_seqlens": ends}


TINY = {
    "kandinsky5": TinyPipeline(
        kandinsky5,
        ("visual_transformer_blocks",),
        {**SMALL, "num_frames": 9, "guidance_scale": 5.0},
        pooled=True,
        per_video=_lengths,
        names={"prompt_embeds": "prompt_embeds_qwen", "pooled_prompt_embeds": "prompt_embeds_clip"},
        calls_per_step=2,
    ),
    "kandinsky6": TinyPipeline(
        kandinsky6,
        ("visual_transformer_blocks",),
        {**SMALL, "num_frames": 9, "guidance_scale": 5.0},
        pooled=True,
        calls_per_step=2,
    ),
}
OTHERS = {
    "kandinsky5_image": other(TINY["kandinsky5"], kandinsky5_image, image=IMAGE, num_frames=21),
    "kandinsky6_image": other(TINY["kandinsky6"], kandinsky6, image=IMAGE),
    "kandinsky6_silent": other(TINY["kandinsky6"], kandinsky6, sample_audio=False),
    "kandinsky6_distilled": replace(
        TINY["kandinsky6"],
        build=kandinsky6_distilled,
        call={**SMALL, "num_frames": 9, "guidance_scale": 1.0},
        calls_per_step=1,
    ),
}
