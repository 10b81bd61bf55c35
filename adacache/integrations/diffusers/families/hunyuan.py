"""HunyuanVideo, HunyuanVideo 1.5, and FramePack, which continues videos."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

# The single-stream blocks fuse attention and MLP, so only those before them are measured.
_LISTS = (
    BlockList("transformer_blocks", ("HunyuanVideoTransformerBlock",), GatedByNorm(index=1, attention="attn")),
    BlockList("single_transformer_blocks", ("HunyuanVideoSingleTransformerBlock",)),
)
_ROWS = (
    "hidden_states",
    "timestep",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "pooled_projections",
    "guidance",
)
FAMILIES = (
    Family(
        name="HunyuanVideo", transformer="HunyuanVideoTransformer3DModel", lists=_LISTS, rows=_ROWS, returns_text=True
    ),
    Family(
        name="HunyuanVideo 1.5",
        transformer="HunyuanVideo15Transformer3DModel",
        lists=(
            BlockList(
                "transformer_blocks", ("HunyuanVideo15TransformerBlock",), GatedByNorm(index=1, attention="attn")
            ),
        ),
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "timestep_r",
            "encoder_hidden_states_2",
            "encoder_attention_mask_2",
            "image_embeds",
        ),
        returns_text=True,
    ),
    # HunyuanVideo's network. Tokens of earlier frames precede those of the frames that are denoised.
    Family(
        name="FramePack",
        transformer="HunyuanVideoFramepackTransformer3DModel",
        lists=_LISTS,
        rows=(*_ROWS, "image_embeds", "latents_clean", "latents_history_2x", "latents_history_4x"),
        has_history=True,
        returns_text=True,
    ),
)
