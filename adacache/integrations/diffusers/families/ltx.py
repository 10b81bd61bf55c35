"""LTX-Video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable


def _ltx_num_frames(config: Any, arguments: Mapping[str, Any]) -> int:
    """Told, or by the places (B, time and height and width, N) or (..., N, begin and end): a frame has each once."""
    coordinates = arguments.get("video_coords")
    if coordinates is None:
        return arguments["num_frames"]
    num_tokens = coordinates.shape[2]
    tokens_per_frame = coordinates[0, 1:].reshape(2, num_tokens, -1).unique(dim=1).shape[1]
    if num_tokens % tokens_per_frame:
        raise ValueError("conditions of LTX-Video with other frame sizes than the video's cannot be cached")
    return num_tokens // tokens_per_frame


FAMILIES = (
    # Its pipelines pack latents into tokens: the transformer gets (B, N, C) and their sizes or coordinates.
    # `LTXConditionPipeline` puts the tokens of its conditions before those of the video, frame by frame, too.
    Family(
        name="LTX-Video",
        transformer="LTXVideoTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("LTXVideoTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
        num_frames=_ltx_num_frames,
        refused_pipelines={
            "LTXI2VLongMultiPromptPipeline": "it leaves out steps of its scheduler, so that the last one is not known"
        },
        channels_dim=2,
    ),
)
