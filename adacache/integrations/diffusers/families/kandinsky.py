"""Kandinsky."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm


def _gated_by_modulation(part: str = "") -> GatedByNorm:
    return GatedByNorm(index=2, of=9, norm=f"{part}visual_modulation", attention=f"{part}self_attention")


FAMILIES = (
    # Channels are the last dimension of latents. Text blocks run before the video's, and only these use their result.
    Family(
        name="Kandinsky 5",
        transformer="Kandinsky5Transformer3DModel",
        lists=(BlockList("visual_transformer_blocks", ("Kandinsky5TransformerDecoderBlock",), _gated_by_modulation()),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections"),
        channels_dim=4,
        out_channels="out_visual_dim",
        aside={"text_transformer_blocks": lambda text, *_: text},
    ),
    # With or without a sound. An image is one more frame, which is not denoised. The distilled model returns outputs
    # for several times at once, so it has more output channels than are denoised.
    Family(
        name="Kandinsky 6",
        transformer="Kandinsky6Transformer3DModel",
        lists=(
            BlockList(
                "visual_transformer_blocks",
                ("Kandinsky6FusedTransformerDecoderBlock",),
                _gated_by_modulation("video_dec_block."),
                audio_residual=_gated_by_modulation("audio_dec_block."),
            ),
        ),
        rows=(
            *("hidden_states", "encoder_hidden_states", "timestep", "pooled_projections", "audio_hidden_states"),
            *("encoder_attention_mask", "visual_token_type_ids"),
        ),
        audio="audio_hidden_states",
        channels_dim=4,
        out_channels="in_visual_dim",
        aside={f"{kind}_text_transformer_blocks": lambda text, *_: text for kind in ("video", "audio")},
    ),
)
