"""Cosmos."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import diffusers
from torch import Tensor
from torch.nn.functional import interpolate

from adacache.conformance.tiny.wan import wan_vae
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


class _NoGuardrail:
    """Replaces the safety checker, which is a separate package."""

    def to(self, device: Any) -> None:
        """Do nothing: there are no weights."""

    def check_video_safety(self, video: Any) -> Any:
        """Let every video pass."""
        return video


class _Transforms:
    """Replaces the part of torchvision that the pipelines use, where torchvision is not installed."""

    InterpolationMode = SimpleNamespace(NEAREST="nearest")

    class functional:  # noqa: N801
        @staticmethod
        def resize(mask: Tensor, size: list[int], interpolation: str) -> Tensor:
            """Return a mask (B, C, H, W) at another size."""
            return interpolate(mask, size, mode=interpolation)


def cosmos() -> diffusers.CosmosTextToWorldPipeline:
    """Cosmos 1, with the scheduler of EDM."""
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        mlp_ratio=2,
        text_embed_dim=TEXT_WIDTH,
        adaln_lora_dim=4,
        max_size=(8, 32, 32),
        concat_padding_mask=False,  # True needs torchvision
    )
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
    )
    scheduler = diffusers.EDMEulerScheduler(sigma_max=20, final_sigmas_type="sigma_min")
    return finished(
        diffusers.CosmosTextToWorldPipeline(
            None, None, randomize(transformer), randomize(vae), scheduler, _NoGuardrail()
        )
    )


def cosmos_image() -> diffusers.CosmosVideoToWorldPipeline:
    """Cosmos 1 from an image, whose frames are noised a little in each step; a mask is an extra channel."""
    pipe = cosmos()
    transformer = rebuilt(pipe.transformer, in_channels=5)
    return finished(
        diffusers.CosmosVideoToWorldPipeline(None, None, transformer, pipe.vae, pipe.scheduler, _NoGuardrail())
    )


def cosmos2_image() -> diffusers.Cosmos2VideoToWorldPipeline:
    """Cosmos 2: frames of the image have a time of their own, and the times of all frames are not the scheduler's."""
    transformer = rebuilt(cosmos().transformer, in_channels=5)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return finished(
        diffusers.Cosmos2VideoToWorldPipeline(None, None, transformer, wan_vae(), scheduler, _NoGuardrail())
    )


def cosmos25() -> diffusers.Cosmos2_5_PredictBasePipeline:
    """Cosmos 2.5 with UniPC, a multistep scheduler."""
    transformer = rebuilt(cosmos().transformer, in_channels=5, extra_pos_embed_type=None)
    scheduler = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=5.0, prediction_type="flow_prediction"
    )
    return finished(
        diffusers.Cosmos2_5_PredictBasePipeline(None, None, transformer, wan_vae(), scheduler, _NoGuardrail())
    )


def cosmos25_control() -> diffusers.Cosmos2_5_TransferPipeline:
    """Cosmos 2.5 with a ControlNet for a control video, whose states are added after every second block."""
    pipe = cosmos25()
    transformer = rebuilt(
        pipe.transformer,
        controlnet_block_every_n=2,
        img_context_dim_in=8,
        img_context_num_tokens=2,
        img_context_dim_out=32,
    )
    controlnet = diffusers.CosmosControlNetModel(
        n_controlnet_blocks=2,
        in_channels=6,
        latent_channels=6,
        model_channels=32,
        num_attention_heads=2,
        attention_head_dim=16,
        mlp_ratio=2,
        text_embed_dim=TEXT_WIDTH,
        adaln_lora_dim=4,
        max_size=(8, 32, 32),
        img_context_dim_in=8,
        img_context_dim_out=32,
    )
    vars(sys.modules[type(controlnet).__module__]).setdefault("transforms", _Transforms)
    return finished(
        diffusers.Cosmos2_5_TransferPipeline(
            None, None, transformer, pipe.vae, pipe.scheduler, randomize(controlnet), _NoGuardrail()
        )
    )


TINY = {
    "cosmos": TinyPipeline(
        cosmos, ("transformer_blocks",), {**SMALL, "num_frames": 9, "guidance_scale": 3.0}, calls_per_step=2
    ),
}
OTHERS = {
    "cosmos_image": other(TINY["cosmos"], cosmos_image, image=IMAGE),
    "cosmos2_image": other(TINY["cosmos"], cosmos2_image, image=IMAGE),
    "cosmos25": other(TINY["cosmos"], cosmos25),
    "cosmos25_video": other(TINY["cosmos"], cosmos25, video=VIDEO),
    "cosmos25_control": other(TINY["cosmos"], cosmos25_control, controls=VIDEO, num_frames_per_chunk=9),
}
