"""Wan, and networks that are built like it."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByTable

_BLOCKS = (BlockList("blocks", ("WanTransformerBlock",), GatedByTable("temb", position=2)),)
_ROWS = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image")


FAMILIES = (
    # Wan's network. A video of only two frames gets the positions of the first and the last frame of a longer one.
    Family(name="ChronoEdit", transformer="ChronoEditTransformer3DModel", lists=_BLOCKS, rows=_ROWS),
    # Wan's network. Tokens of earlier frames precede those of the frames that are denoised.
    Family(
        name="Helios",
        transformer="HeliosTransformer3DModel",
        lists=(BlockList("blocks", ("HeliosTransformerBlock",), GatedByTable("temb", position=2)),),
        rows=(
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "indices_hidden_states",
            "indices_latents_history_short",
            "indices_latents_history_mid",
            "indices_latents_history_long",
            "latents_history_short",
            "latents_history_mid",
            "latents_history_long",
        ),
        has_history=True,
        refused_pipelines={
            f"HeliosPyramid{kind}Pipeline": "it denoises each section at several sizes, with too few steps at each to "
            "leave some out"
            for kind in ("", "Modular", "DistilledModular")
        },
    ),
    # Wan's network, for text to video and image to video.
    Family(
        name="SkyReels-V2",
        transformer="SkyReelsV2Transformer3DModel",
        lists=(BlockList("blocks", ("SkyReelsV2TransformerBlock",), GatedByTable("temb", position=2)),),
        rows=_ROWS,
        refused_pipelines={
            f"SkyReelsV2DiffusionForcing{kind}Pipeline": "its frames are at different steps at the same time"
            for kind in ("", "ImageToVideo", "VideoToVideo")
        },
    ),
    # Wan's network. Separate blocks make hints from a control video, one of which is added after every few blocks.
    Family(
        name="Wan VACE",
        transformer="WanVACETransformer3DModel",
        lists=_BLOCKS,
        rows=(*_ROWS, "control_hidden_states"),
        aside={"vace_blocks": lambda hidden_states, text, control, *_: (hidden_states.new_zeros(()), control)},
        added_after=lambda config: config.vace_layers,
    ),
    # Wan's network, with a reference image as the first frame. Features of a face are added after every few blocks.
    Family(
        name="Wan Animate",
        transformer="WanAnimateTransformer3DModel",
        lists=_BLOCKS,
        rows=(*_ROWS, "pose_hidden_states", "face_pixel_values"),
        aside={
            "motion_encoder": lambda faces: faces.new_zeros(len(faces), 1),
            "face_encoder": lambda motion: motion,
            "face_adapter": lambda hidden_states, faces: hidden_states.new_zeros(()),
        },
        added_after=lambda config: range(0, config.num_layers, config.inject_face_latents_blocks),
    ),
    # Wan 2.1 and Wan 2.2; the latter has a second transformer of the same class for the later, less noisy steps.
    Family(name="Wan", transformer="WanTransformer3DModel", lists=_BLOCKS, rows=_ROWS),
)
