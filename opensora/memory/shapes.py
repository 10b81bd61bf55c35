"""The sizes of a run's three models and of its latents: no weights are read, and none need to be there.

A model's sizes are those of its config.json; without one, as with published models that are not downloaded yet, those
that were published.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opensora.config.schema import SampleConfig
from opensora.utils.errors import ConfigError
from opensora.utils.weights.layout import config_file
from opensora.utils.weights.locate import find_piece

if TYPE_CHECKING:
    from opensora.models.stdit import STDiT3Config
    from opensora.models.vae import VideoAutoencoderConfig

GUIDANCE_HALVES = 2  # rows per video: with and without its prompt

# Encoder of T5 v1.1 XXL. Source: config.json of DeepFloyd/t5-v1_1-xxl
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
# The repositories with the sizes that are known.
_PUBLISHED = {
    "model": "hpcai-tech/OpenSora-STDiT-v3",
    "vae": "hpcai-tech/OpenSora-VAE-v1.2",
    "text_encoder": "DeepFloyd/t5-v1_1-xxl",
}


@dataclass(frozen=True)
class ModelShapes:
    """What the models are built from; ``text`` is the config of a T5."""

    transformer: STDiT3Config
    vae: VideoAutoencoderConfig
    text: dict[str, Any]

    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Frames, height and width of one video's latents; sides are rounded up but for ``compat``."""
        pixels = 2 ** (len(self.vae.autoencoder_kl["block_out_channels"]) - 1)
        per_latent = self.vae.temporal.time_factor
        full, rest = divmod(config.num_frames, config.vae.micro_frame_size or config.num_frames)
        frames = -(-rest // per_latent)
        if full:
            frames += full * -(-(config.num_frames - rest) // full // per_latent)
        sides = (config.height, config.width)
        return frames, *(side // pixels if config.compat else -(-side // pixels) for side in sides)

    def num_latents(self, config: SampleConfig, batch: int) -> int:
        """Numbers in the transformer's input (2 * batch, C, T, H, W)."""
        frames, height, width = self.latent_size(config)
        return GUIDANCE_HALVES * batch * self.transformer.in_channels * frames * height * width

    def num_hidden_states(self, config: SampleConfig, batch: int) -> int:
        """Numbers in the transformer's hidden states (2 * batch, tokens, channels)."""
        frames, height, width = self.latent_size(config)
        _, rows, columns = self.transformer.patch_size
        tokens = frames * -(-height // rows) * -(-width // columns)
        return GUIDANCE_HALVES * batch * tokens * self.transformer.hidden_size


def read_shapes(config: SampleConfig) -> ModelShapes:
    """The sizes of the models that ``config`` names, with its own settings of the autoencoder.

    Raises:
        ConfigError: a ``config.json`` cannot be read or does not describe such a model, or there is none of a model
            that is not a published one.
    """
    from opensora.models.stdit import STDiT3Config
    from opensora.models.vae import VideoAutoencoderConfig

    qk_norm = {} if config.model.qk_norm is None else {"qk_norm": config.model.qk_norm}
    micro = {"micro_frame_size": config.vae.micro_frame_size, "micro_batch_size": config.vae.micro_batch_size}
    return ModelShapes(
        _read(config, "model", lambda values: STDiT3Config.from_dict({**values, **qk_norm})),
        _read(config, "vae", lambda values: VideoAutoencoderConfig.from_dict({**values, **micro})),
        _read(config, "text_encoder", lambda values: values or T5_XXL),
    )


def _read(config: SampleConfig, section: str, build: Callable[[dict[str, Any]], Any]) -> Any:
    """What ``build`` makes of a piece's ``config.json``, or of nothing, from which it makes the published one."""
    wanted = getattr(config, section).from_pretrained
    piece = find_piece(section, wanted, config.weights_dir)
    file = piece.path and config_file(piece.path)
    if file is None:
        if piece.path is None and wanted != _PUBLISHED[section]:
            raise ConfigError(
                f"{section}.from_pretrained='{wanted}' is not on this machine, so that its size is not known; give a "
                f"folder with its config.json, or {_PUBLISHED[section]}"
            )
        return build({})
    try:
        return build(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be used: {error}") from error
