"""The sizes of published models, for those that are not downloaded yet: what their config.json say.

Entries are empty where they are the defaults of the class that reads them.
Source: config.json of the repositories; of Latte-1 and Open-Sora-Plan v1.1.0 the configurations that their training and
sampling scripts lead to, as their config.json were not at hand.
"""

from __future__ import annotations

from typing import Any

# Encoder of T5 v1.1 XXL.
_T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
_STABLE_DIFFUSION_VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
_STDIT = {"hpcai-tech/OpenSora-STDiT-v3": {}}

# Type of a section -> repository -> its config.json. Weights without a config.json are of the first one's size.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "STDiT3-XL/2": _STDIT,
    "STDiT3": _STDIT,
    "Latte": {"maxin-cn/Latte-1/transformer": {}},
    "LatteT2V": {
        "LanguageBind/Open-Sora-Plan-v1.1.0/65x512x512": {},
        "LanguageBind/Open-Sora-Plan-v1.1.0/221x512x512": {"video_length": 56},
    },
    "OpenSoraVAE_V1_2": {"hpcai-tech/OpenSora-VAE-v1.2": {}},
    "AutoencoderKL": {"maxin-cn/Latte-1/vae": _STABLE_DIFFUSION_VAE},
    "CausalVAE": {"LanguageBind/Open-Sora-Plan-v1.1.0/vae": {}},
    "t5": {"DeepFloyd/t5-v1_1-xxl": _T5_XXL, "maxin-cn/Latte-1/text_encoder": _T5_XXL},
}
