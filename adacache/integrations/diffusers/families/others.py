"""Models that have no relatives here."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm, GatedByTable, OutputOf

FAMILIES = (
    Family(
        name="Allegro",
        transformer="AllegroTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("AllegroTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask"),
        batches_guidance=True,
    ),
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
        has_own_times=True,
    ),
    # Latte-1, and Open-Sora-Plan v1.1, whose transformer is the same network. Spatial and temporal blocks take turns;
    # the model regroups the tokens around every temporal block, and adds the temporal positions after the first spatial
    # one. These positions are part of the stack's residual.
    Family(
        name="Latte",
        transformer="LatteTransformer3DModel",
        lists=(
            BlockList(
                "transformer_blocks",
                ("BasicTransformerBlock",),
                GatedByTable("timestep", position=4),
                layout="frames",
                streams=("spatial",),
            ),
            BlockList(
                "temporal_transformer_blocks",
                ("BasicTransformerBlock",),
                GatedByTable("timestep", position=4),
                layout="places",
                streams=("temporal",),
            ),
        ),
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
        bypass={"enable_temporal_attentions": False},
        batches_guidance=True,
    ),
    Family(
        name="Mochi",
        transformer="MochiTransformer3DModel",
        # The norm after the attention multiplies with the gate.
        lists=(BlockList("transformer_blocks", ("MochiTransformerBlock",), OutputOf("norm2")),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        returns_text=True,
    ),
    # Its last blocks are a decoder: they start again from the hidden states before all blocks, beside the result of the
    # other blocks. Their list comes first here because the stand-in for all blocks has to be in it.
    Family(
        name="Motif-Video",
        transformer="MotifVideoTransformer3DModel",
        lists=(
            BlockList("single_transformer_blocks", ("MotifVideoSingleTransformerBlock",)),
            BlockList("transformer_blocks", ("MotifVideoTransformerBlock",), GatedByNorm(index=1, attention="attn")),
        ),
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "image_embeds"),
        returns_text=True,
    ),
    # Linear attention. An image, if there is one, is the first frame of the latents.
    Family(
        name="SANA-Video",
        transformer="SanaVideoTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("SanaVideoTransformerBlock",), GatedByTable("timestep", position=4)),),
        rows=(
            "hidden_states",
            "encoder_hidden_states",
            "timestep",
            "guidance",
            "encoder_attention_mask",
            "attention_mask",
        ),
        batches_guidance=True,
    ),
    # Every block takes the camera's path. Each frame has a time of its own. Its pipeline makes one video at a time.
    Family(
        name="SANA-WM",
        transformer="SanaWMTransformer3DModel",
        lists=(BlockList("blocks", ("SanaVideoMSCamCtrlBlock",), GatedByTable("t", position=2, attention="attn")),),
        rows=(
            *("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask", "mask"),
            *("camera_conditions", "chunk_plucker"),
        ),
        batches_guidance=True,
    ),
)
