"""LTX-Video and LTX-2."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import diffusers

from adacache.conformance.tiny_pipeline import (
    IMAGE,
    SMALL,
    TEXT_WIDTH,
    VIDEO,
    TinyPipeline,
    flow_matching,
    other,
    transformer,
)


def _ltx() -> dict[str, Any]:
    model = transformer(
        "LTXVideoTransformer3DModel", in_channels=8, out_channels=8, attention_head_dim=16, cross_attention_dim=32
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    return {"transformer": model, "vae": vae, "scheduler": flow_matching()}


def ltx2_vae() -> Any:
    return diffusers.AutoencoderKLLTX2Video(
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


def _ltx2(**options: Any) -> dict[str, Any]:
    own = {
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "rope_double_precision": False,
        "rope_type": "split",
    }
    connector = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=1,
        **{f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in connector.items()},
        rope_type="split",
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
    return {
        "transformer": transformer("LTX2VideoTransformer3DModel", own, **options),
        "connectors": connectors,
        "vae": ltx2_vae(),
        "audio_vae": audio_vae,
        "vocoder": vocoder,
        "scheduler": flow_matching(),
    }


# Only the guidance by the prompt, whose halves are in one call.
_BY_PROMPT = {"stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0}
TINY = {
    "ltx": TinyPipeline("LTXPipeline", _ltx, {**SMALL, "guidance_scale": 3.0}, masks=True),
    # A picture and its sound.
    "ltx2": TinyPipeline(
        "LTX2Pipeline",
        _ltx2,
        {**SMALL, "guidance_scale": 3.0, **_BY_PROMPT},
        masks=True,
        since="0.38.0",  # before, its connectors had other arguments
    ),
}
_REFERENCES = [SimpleNamespace(frames=VIDEO, strength=1.0)]
_CONDITIONS = [SimpleNamespace(frames=IMAGE, index=8, strength=1.0, crf=0)]
OTHERS = {
    # The tokens of conditions precede those of the video; those of an image have a time of their own.
    "ltx_condition": other(TINY["ltx"], "LTXConditionPipeline", {"image": IMAGE, "frame_index": 8, "num_frames": 17}),
    "ltx_image": other(TINY["ltx"], "LTXImageToVideoPipeline", {"image": IMAGE}),
    "ltx2_image": other(TINY["ltx2"], "LTX2ImageToVideoPipeline", {"image": IMAGE}),
    # The tokens of conditions, or of a reference video, follow those of the video.
    "ltx2_condition": other(TINY["ltx2"], "LTX2ConditionPipeline", {"conditions": _CONDITIONS}),
    "ltx2_reference": other(TINY["ltx2"], "LTX2InContextPipeline", {"reference_conditions": _REFERENCES}),
    # All its guidance: two more calls in each step, one of which keeps picture and sound apart.
    "ltx23": replace(
        TINY["ltx2"],
        options={
            "perturbed_attn": True,
            **{f"{kind}{part}": True for kind in ("", "audio_") for part in ("gated_attn", "cross_attn_mod")},
        },
        call={**SMALL, "spatio_temporal_guidance_blocks": [1]},
        calls_per_step=3,
    ),
}
