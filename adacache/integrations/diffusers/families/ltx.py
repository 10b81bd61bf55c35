"""LTX-Video; its pipeline packs latents into tokens, so that the transformer gets (B, N, C) and their sizes."""

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

FAMILY = Family(
    name="LTX-Video",
    transformer="LTXVideoTransformer3DModel",
    lists=(BlockList("transformer_blocks", ("LTXVideoTransformerBlock",), GatedByTable("temb", position=2)),),
    rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
    num_frames=lambda config, arguments: arguments["num_frames"],
    frames_dim=1,
    channels_dim=2,
)
