"""CogVideoX."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

FAMILIES = (
    # Version 1.5 also makes patches of frames.
    Family(
        name="CogVideoX",
        transformer="CogVideoXTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("CogVideoXBlock",), GatedByNorm(index=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
        num_frames=lambda config, arguments: -(-arguments["hidden_states"].shape[1] // (config.patch_size_t or 1)),
        returns_text=True,
        channels_dim=2,
    ),
)
