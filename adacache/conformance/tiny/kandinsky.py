"""Kandinsky."""

from __future__ import annotations

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
)


def kandinsky5() -> diffusers.Kandinsky5T2VPipeline:
    """Kandinsky 5: a mask and an image's latents, zeros here, are further channels."""
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
    """The first frame is the image's, and stays."""
    pipe = kandinsky5()
    return finished(diffusers.Kandinsky5I2VPipeline(pipe.transformer, pipe.vae, None, None, None, None, pipe.scheduler))


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
}
OTHERS = {"kandinsky5_image": other(TINY["kandinsky5"], kandinsky5_image, image=IMAGE, num_frames=21)}
