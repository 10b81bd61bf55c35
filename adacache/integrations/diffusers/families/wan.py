"""Wan, and networks that are built like it."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

FAMILIES = (
    # The network of Wan, text and image to video.
    Family(
        name="SkyReels-V2",
        transformer="SkyReelsV2Transformer3DModel",
        lists=(BlockList("blocks", ("SkyReelsV2TransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
        refused_pipelines={
            f"SkyReelsV2DiffusionForcing{kind}Pipeline": "its frames are at different steps at the same time"
            for kind in ("", "ImageToVideo", "VideoToVideo")
        },
    ),
    # Wan 2.1 and Wan 2.2; the latter has a second transformer of the same class for the later, less noisy steps.
    Family(
        name="Wan",
        transformer="WanTransformer3DModel",
        lists=(BlockList("blocks", ("WanTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
    ),
)
