"""LTX-Video and LTX-2."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import Any

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_WIDTH,
    VIDEO,
    TinyPipeline,
    finished,
    other,
    randomize,
    rebuilt,
)


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
    """LTX-Video with the tokens of conditions before those of the video."""
    pipe = ltx()
    return finished(diffusers.LTXConditionPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


def ltx_image() -> diffusers.LTXImageToVideoPipeline:
    """LTX-Video from an image, whose tokens have a time of their own."""
    pipe = ltx()
    return finished(diffusers.LTXImageToVideoPipeline(pipe.scheduler, pipe.vae, None, None, pipe.transformer))


def ltx2() -> diffusers.LTX2Pipeline:
    """LTX-2, which denoises a picture and its sound."""
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=4,
        caption_channels=TEXT_WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )
    connector = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=1,
        **{f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in connector.items()},
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=8,
    )
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vocoder = diffusers.pipelines.ltx2.LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )
    models = (randomize(model) for model in (connectors, transformer, vocoder))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return finished(diffusers.LTX2Pipeline(scheduler, randomize(vae), randomize(audio_vae), None, None, *models))


def ltx23() -> diffusers.LTX2Pipeline:
    """LTX-2.3 with all its guidance: two more calls in each step, one of which keeps picture and sound apart."""
    pipe = ltx2()
    modulated = {f"{kind}{part}": True for kind in ("", "audio_") for part in ("gated_attn", "cross_attn_mod")}
    pipe.transformer = rebuilt(pipe.transformer, perturbed_attn=True, **modulated)
    return finished(pipe)


def ltx2_image() -> diffusers.LTX2ImageToVideoPipeline:
    """LTX-2 from an image, whose tokens have a time of their own."""
    return _as_pipeline(diffusers.LTX2ImageToVideoPipeline)


def ltx2_condition() -> diffusers.LTX2ConditionPipeline:
    """LTX-2 with the tokens of conditions after those of the video."""
    return _as_pipeline(diffusers.LTX2ConditionPipeline)


def ltx2_reference() -> diffusers.LTX2InContextPipeline:
    """LTX-2 with the tokens of a reference video after those of the video."""
    return _as_pipeline(diffusers.LTX2InContextPipeline)


def _as_pipeline(pipeline: type) -> Any:
    """Return another pipeline around those components of LTX-2 that it takes."""
    components = {name: model for name, model in ltx2().components.items() if name in signature(pipeline).parameters}
    return finished(pipeline(**components))


# Only the guidance by the prompt, whose halves are in one call.
_BY_PROMPT = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
TINY = {
    "ltx": TinyPipeline(ltx, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 3.0}, masks=True),
    "ltx2": TinyPipeline(
        ltx2,
        ("transformer_blocks",),
        {**SMALL, "num_frames": 9, "guidance_scale": 3.0, **_BY_PROMPT},
        masks=True,
        since="0.38.0",  # before, its connectors had other arguments
    ),
}
_REFERENCES = [SimpleNamespace(frames=VIDEO, strength=1.0)]
_CONDITIONS = [SimpleNamespace(frames=IMAGE, index=8, strength=1.0, crf=0)]
OTHERS = {
    "ltx_condition": other(TINY["ltx"], ltx_condition, image=IMAGE, frame_index=8, num_frames=17),
    "ltx_image": other(TINY["ltx"], ltx_image, image=IMAGE),
    "ltx2_image": other(TINY["ltx2"], ltx2_image, image=IMAGE),
    "ltx2_condition": other(TINY["ltx2"], ltx2_condition, conditions=_CONDITIONS),
    "ltx2_reference": other(TINY["ltx2"], ltx2_reference, reference_conditions=_REFERENCES),
    "ltx23": replace(
        TINY["ltx2"],
        build=ltx23,
        call={**SMALL, "num_frames": 9, "spatio_temporal_guidance_blocks": [1]},
        calls_per_step=3,
    ),
}
