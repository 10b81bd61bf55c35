"""Cosmos."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

FAMILIES = (
    # Cosmos 1, 2 and 2.5. The later ones give the transformer a time that is not the scheduler's.
    Family(
        name="Cosmos",
        transformer="CosmosTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("CosmosTransformerBlock",), GatedByNorm(index=1)),),
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "block_controlnet_hidden_states",
            "attention_mask",
            "condition_mask",
            "padding_mask",
        ),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
        has_own_times=True,
    ),
)
