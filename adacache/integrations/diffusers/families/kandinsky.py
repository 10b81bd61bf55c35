"""Kandinsky."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

FAMILIES = (
    # Latents have their channels last. Blocks of the text run before those of the video, which alone use their result.
    Family(
        name="Kandinsky 5",
        transformer="Kandinsky5Transformer3DModel",
        lists=(
            BlockList(
                "visual_transformer_blocks",
                ("Kandinsky5TransformerDecoderBlock",),
                GatedByNorm(index=2, of=9, norm="visual_modulation", attention="self_attention"),
            ),
        ),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections"),
        num_frames=lambda config, arguments: arguments["hidden_states"].shape[1] // config.patch_size[0],
        channels_dim=4,
        out_channels="out_visual_dim",
        aside={"text_transformer_blocks": lambda text, *_: text},
    ),
)
