"""Allegro."""

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

FAMILY = Family(
    name="Allegro",
    transformer="AllegroTransformer3DModel",
    lists=(BlockList("transformer_blocks", ("AllegroTransformerBlock",), GatedByTable("temb", position=2)),),
    rows=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask"),
    num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size_t,
    batches_guidance=True,
)
