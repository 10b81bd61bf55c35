"""Cosmos."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import diffusers
from torch import Tensor
from torch.nn.functional import interpolate

from adacache.conformance.tiny.wan import wan_vae
from adacache.conformance.tiny_pipeline import IMAGE, SMALL, VIDEO, TinyPipeline, multistep, other, transformer


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


# Of the transformer and of the ControlNet.
_OPTIONS = {
    "attention_head_dim": 16,
    "mlp_ratio": 2,
    "adaln_lora_dim": 4,
    "max_size": (8, 32, 32),
    "concat_padding_mask": False,  # True needs torchvision
}


def _cosmos(**options: Any) -> dict[str, Any]:
    """Return components with the scheduler of EDM."""
    vae = diffusers.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
    )
    return {
        "transformer": transformer("CosmosTransformer3DModel", _OPTIONS, **options),
        "vae": vae,
        "scheduler": diffusers.EDMEulerScheduler(sigma_max=20, final_sigmas_type="sigma_min"),
        "safety_checker": _NoGuardrail(),
    }


def _cosmos2() -> dict[str, Any]:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return {**_cosmos(in_channels=5), "vae": wan_vae(), "scheduler": scheduler}


def _cosmos25(**options: Any) -> dict[str, Any]:
    own = _cosmos(in_channels=5, extra_pos_embed_type=None, **options)
    return {**own, "vae": wan_vae(), "scheduler": multistep(5.0)}


def _cosmos25_control() -> dict[str, Any]:
    image = {"img_context_dim_in": 8, "img_context_dim_out": 32}
    controlnet = transformer(
        "CosmosControlNetModel",
        _OPTIONS,
        **image,
        n_controlnet_blocks=2,
        in_channels=6,
        latent_channels=6,
        model_channels=32,
    )
    vars(sys.modules[type(controlnet).__module__]).setdefault("transforms", _Transforms)
    own = _cosmos25(**image, controlnet_block_every_n=2, img_context_num_tokens=2)
    return {**own, "controlnet": controlnet}


TINY = {
    "cosmos": TinyPipeline("CosmosTextToWorldPipeline", _cosmos, {**SMALL, "guidance_scale": 3.0}, calls_per_step=2)
}
_COSMOS25 = replace(TINY["cosmos"], pipeline="Cosmos2_5_PredictBasePipeline", components=_cosmos25)
OTHERS = {
    # Cosmos 1 from an image, whose frames are noised a little in each step; a mask is an extra channel.
    "cosmos_image": other(TINY["cosmos"], "CosmosVideoToWorldPipeline", {"image": IMAGE}, options={"in_channels": 5}),
    # Frames of the image have a time of their own, and the times of all frames are not the scheduler's.
    "cosmos2_image": other(TINY["cosmos"], "Cosmos2VideoToWorldPipeline", {"image": IMAGE}, components=_cosmos2),
    "cosmos25": _COSMOS25,
    "cosmos25_video": other(_COSMOS25, _COSMOS25.pipeline, {"video": VIDEO}),
    # With a ControlNet for a control video, whose states are added after every second block.
    "cosmos25_control": other(
        _COSMOS25,
        "Cosmos2_5_TransferPipeline",
        {"controls": VIDEO, "num_frames_per_chunk": 9},
        components=_cosmos25_control,
    ),
}
