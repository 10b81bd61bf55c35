"""CogVideoX, and networks that are built like it."""

from __future__ import annotations

from adacache.integrations.diffusers.family import BlockList, Family
from adacache.integrations.diffusers.residuals import GatedByNorm

FAMILIES = (
    # Version 1.5 also groups frames into patches.
    Family(
        name="CogVideoX",
        transformer="CogVideoXTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("CogVideoXBlock",), GatedByNorm(index=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "ofs"),
        returns_text=True,
        channels_dim=2,
    ),
    # CogVideoX's network. If it was trained with faces, features of a face are added after every few blocks.
    Family(
        name="ConsisID",
        transformer="ConsisIDTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("ConsisIDBlock",), GatedByNorm(index=2)),),
        rows=("hidden_states", "encoder_hidden_states", "timestep", "timestep_cond", "id_cond", "id_vit_hidden"),
        batches_guidance=True,
        returns_text=True,
        channels_dim=2,
        aside={"local_facial_extractor": lambda *features: None},  # no features, so nothing is added
        added_after=lambda config: (
            range(0, config.num_layers, config.cross_attn_interval) if config.is_train_face else ()
        ),
    ),
    # Blocks may have separate weights for the text. Latents of an image or a control video are separate arguments.
    Family(
        name="EasyAnimate",
        transformer="EasyAnimateTransformer3DModel",
        lists=(BlockList("transformer_blocks", ("EasyAnimateTransformerBlock",), GatedByNorm(index=2)),),
        rows=(
            "hidden_states",
            "timestep",
            "timestep_cond",
            "encoder_hidden_states",
            "encoder_hidden_states_t5",
            "inpaint_latents",
            "control_latents",
        ),
        batches_guidance=True,
        returns_text=True,
    ),
)
