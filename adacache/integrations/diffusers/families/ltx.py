"""LTX-Video and LTX-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable


def _num_frames(arguments: Mapping[str, Any]) -> int:
    """Return the argument `num_frames` or, if there are coordinates, how many tokens there are at each place.

    `video_coords` are times, heights and widths, (B, 3, N), or each with its beginning and end, (B, 3, N, 2).
    """
    coordinates = arguments.get("video_coords")
    if coordinates is None:
        return arguments["num_frames"]
    num_tokens = coordinates.shape[2]
    tokens_per_frame = coordinates[0, 1:].reshape(2, num_tokens, -1).unique(dim=1).shape[1]
    if num_tokens % tokens_per_frame:
        raise ValueError("conditions with other frame sizes than the video's cannot be cached")
    return num_tokens // tokens_per_frame


_TILES = "it cuts the video of a step into tiles, with a call of the transformer for each"
FAMILIES = (
    # Its pipelines pack latents into tokens: the transformer gets (B, N, C) and their sizes or coordinates.
    # `LTXConditionPipeline` puts the tokens of its conditions, also frame by frame, before those of the video.
    Family(
        name="LTX-Video",
        transformer="LTXVideoTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("LTXVideoTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "video_coords"),
        num_frames=_num_frames,
        refused_pipelines={
            "LTXI2VLongMultiPromptPipeline": "it leaves out steps of its scheduler, so the last one is not known"
        },
        channels_dim=2,
    ),
    # Picture and sound, which attend to each other in every block. LTX-2.3 has three more rows in its tables.
    Family(
        name="LTX-2",
        transformer="LTX2VideoTransformer3DModel",
        lists=(
            BlockList(
                "transformer_blocks",
                ("LTX2VideoTransformerBlock",),
                GatedByTable("temb", position=4),
                audio_residual=GatedByTable(
                    "temb_audio", position=5, attention="audio_attn1", table="audio_scale_shift_table"
                ),
            ),
        ),
        rows=(
            *("hidden_states", "encoder_hidden_states", "timestep", "sigma", "encoder_attention_mask", "video_coords"),
            *("audio_hidden_states", "audio_encoder_hidden_states", "audio_timestep", "audio_sigma"),
            *("audio_encoder_attention_mask", "audio_coords", "perturbation_mask"),
            *("video_self_attention_mask", "video_keyframes_mask"),
        ),
        num_frames=_num_frames,
        audio="audio_hidden_states",
        refused_pipelines={
            "LTX2DFRPipeline": _TILES,
            "LTX2DFRTemporalRefinePipeline": _TILES,
            "LTX2HDRPipeline": "it denoises no sound, but its transformer still computes one, whose changes mean "
            "nothing",
        },
        channels_dim=2,
    ),
)
