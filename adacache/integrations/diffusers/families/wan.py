"""Wan 2.1 and Wan 2.2; the latter has a second transformer of the same class for the later, less noisy steps."""

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

FAMILY = Family(
    name="Wan",
    transformer="WanTransformer3DModel",
    lists=(BlockList("blocks", ("WanTransformerBlock",), GatedByTable("temb", position=2)),),
    rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
    num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
)
