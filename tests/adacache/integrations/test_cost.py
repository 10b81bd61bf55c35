"""What the cache itself costs, counted at the sizes of published models; nothing is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, LatteTransformer3DModel, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from adacache import StepController
from adacache.integrations.diffusers.forward import CachedForward
from adacache.policies.static import StaticScheduleConfig


def latte() -> tuple[Any, dict[str, Any]]:
    """Latte-1, 16 x 512 x 512."""
    transformer = LatteTransformer3DModel(
        num_attention_heads=16,
        attention_head_dim=72,
        in_channels=4,
        out_channels=8,
        num_layers=28,
        cross_attention_dim=1152,
        attention_bias=True,
        sample_size=64,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=4096,
        video_length=16,
    )
    text = torch.empty(2, 120, 4096)
    return transformer, call(torch.empty(2, 4, 16, 64, 64), text)


def cogvideox() -> tuple[Any, dict[str, Any]]:
    """CogVideoX-2B, 49 x 480 x 720."""
    return CogVideoXTransformer3DModel(), call(torch.empty(2, 13, 16, 60, 90), torch.empty(2, 226, 4096))


def wan() -> tuple[Any, dict[str, Any]]:
    """Wan 2.1 1.3B, 81 x 480 x 832."""
    transformer = WanTransformer3DModel(num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30)
    return transformer, call(torch.empty(1, 16, 21, 60, 104), torch.empty(1, 512, 4096))


def call(latents: torch.Tensor, text: torch.Tensor) -> dict[str, Any]:
    return {"hidden_states": latents, "timestep": torch.empty(len(latents)), "encoder_hidden_states": text}


@pytest.mark.parametrize("build", [latte, cogvideox, wan])
def test_a_computed_step_costs_no_more_than_a_plain_one_and_a_reused_one_nothing(build):
    with torch.device("meta"), torch.no_grad():
        transformer, arguments = build()
        with FlopCounterMode(display=False) as plain:
            transformer(**arguments)
        cached = CachedForward(transformer)
        controller = StepController(StaticScheduleConfig((0,)))
        costs = []
        with controller.run(num_steps=2):
            for step in range(2):
                controller.begin_step(step)
                with FlopCounterMode(display=False) as counted:
                    cached(controller, transformer.forward, "default", arguments)
                costs.append(counted.get_total_flops() / plain.get_total_flops())
    assert 1 <= costs[0] < 1.0002
    assert costs[1] < 1e-3
