"""HunyuanVideo."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

FAMILIES = (
    # Text to video. Its later blocks fuse attention and MLP, so that the earlier ones are measured.
    Family(
        name="HunyuanVideo",
        transformer="HunyuanVideoTransformer3DModel",
        lists=(
            BlockList("transformer_blocks", ("HunyuanVideoTransformerBlock",), GatedByNorm(index=1, attention="attn")),
            BlockList("single_transformer_blocks", ("HunyuanVideoSingleTransformerBlock",)),
        ),
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "pooled_projections",
            "guidance",
        ),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size_t,
        returns_text=True,
    ),
)
