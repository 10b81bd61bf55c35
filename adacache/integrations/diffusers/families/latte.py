"""Latte-1, and Open-Sora-Plan v1.1, whose transformer is the same network.

Spatial and temporal blocks take turns; the model regroups the tokens around every temporal block, and adds the temporal
positions after the first spatial one. They are part of the stack's residual.
"""

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

_RESIDUAL = GatedByTable("timestep", position=4)
_BLOCKS = ("BasicTransformerBlock",)

FAMILY = Family(
    name="Latte",
    transformer="LatteTransformer3DModel",
    lists=(
        BlockList("transformer_blocks", _BLOCKS, _RESIDUAL, layout="frames", streams=("spatial",)),
        BlockList("temporal_transformer_blocks", _BLOCKS, _RESIDUAL, layout="places", streams=("temporal",)),
    ),
    rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
    num_frames=lambda config, arguments: arguments["hidden_states"].shape[2],
    bypass={"enable_temporal_attentions": False},
    batches_guidance=True,
)
