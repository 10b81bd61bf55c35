"""Mochi 1."""

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import OutputOf

FAMILY = Family(
    name="Mochi",
    transformer="MochiTransformer3DModel",
    # The norm after the attention multiplies with the gate.
    lists=(BlockList("transformer_blocks", ("MochiTransformerBlock",), OutputOf("norm2")),),
    rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
    num_frames=lambda config, arguments: arguments["hidden_states"].shape[2],
    returns_text=True,
)
