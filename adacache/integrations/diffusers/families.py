"""The families of transformers that are known: data about their forwards, their blocks and their residuals."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm, GatedByTable, OutputOf


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


_FAMILIES = (
    Family(
        name="Allegro",
        transformer="AllegroTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("AllegroTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask"),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size_t,
        batches_guidance=True,
    ),
    # Version 1.5 also makes patches of frames.
    Family(
        name="CogVideoX",
        transformer="CogVideoXTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("CogVideoXBlock",), GatedByNorm(index=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
        num_frames=lambda config, arguments: -(-arguments["hidden_states"].shape[1] // (config.patch_size_t or 1)),
        returns_text=True,
        frames_dim=1,
        channels_dim=2,
    ),
    # Text to video. Its later blocks fuse attention and MLP, so that the earlier ones are measured.
    Family(
        name="HunyuanVideo",
        transformer="HunyuanVideoTransformer3DModel",
        lists=(
            BlockList("transformer_blocks", ("HunyuanVideoTransformerBlock",), GatedByNorm(index=1, attention="attn")),
            BlockList("single_transformer_blocks", ("HunyuanVideoSingleTransformerBlock",)),
        ),
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "pooled_projections",
            "guidance",
        ),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size_t,
        returns_text=True,
    ),
    # Latte-1, and Open-Sora-Plan v1.1, whose transformer is the same network. Spatial and temporal blocks take turns;
    # the model regroups the tokens around every temporal block, and adds the temporal positions after the first spatial
    # one. They are part of the stack's residual.
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
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2],
        bypass={"enable_temporal_attentions": False},
        batches_guidance=True,
    ),
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
        frames_dim=1,
        channels_dim=2,
    ),
    Family(
        name="Mochi",
        transformer="MochiTransformer3DModel",
        # The norm after the attention multiplies with the gate.
        lists=(BlockList("transformer_blocks", ("MochiTransformerBlock",), OutputOf("norm2")),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask"),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2],
        returns_text=True,
    ),
    # Linear attention; an image, where there is one, is the first frame of latents.
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
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[2] // config.patch_size[0],
        batches_guidance=True,
    ),
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
KNOWN = {family.transformer: family for family in _FAMILIES}


def find_family(transformer: object) -> Family:
    """The family of a transformer, whose class may be derived from a known one.

    Raises: ValueError when it belongs to none.
    """
    names = [cls.__name__ for cls in type(transformer).__mro__]
    found = next((KNOWN[name] for name in names if name in KNOWN), None)
    if found is None:
        close = get_close_matches(names[0], KNOWN, 1)
        raise ValueError(
            f"AdaCache does not know the model {names[0]}; "
            + (f"did you mean {close[0]}? " if close else "")
            + f"known are {', '.join(sorted(KNOWN))}, and docs/diffusers.md says how to add one"
        )
    return found
