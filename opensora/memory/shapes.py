"""The sizes of a run's three models and of its latents: no weights are read, and none need to be there.

A model's sizes are those of its config.json; without one, as with published models that are not downloaded yet, those
that were published.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opensora.config.schema import LatteModelConfig, SampleConfig
from opensora.errors import ConfigError
from opensora.memory.published import PUBLISHED
from opensora.weights.layout import config_file
from opensora.weights.locate import find_piece

if TYPE_CHECKING:
    from opensora.models.stdit import STDiT3Config
    from opensora.models.vae import VideoAutoencoderConfig

GUIDANCE_HALVES = 2  # rows per video: with and without its prompt


@dataclass(frozen=True)
class ModelShapes(ABC):
    """What the models of a run are built from, and the memory they take; ``text`` is the config of a T5."""

    text: dict[str, Any]

    @property
    @abstractmethod
    def depth(self) -> int:
        """Pairs of a spatial and a temporal block."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Channels of the latents."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Channels of the hidden states."""

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of latents in a token."""

    @abstractmethod
    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Frames, height and width of one video's latents; sides are rounded up but for ``compat``."""

    @abstractmethod
    def weight_bytes(self, config: SampleConfig) -> int:
        """Of the transformer and the autoencoder, as they are held."""

    @abstractmethod
    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Of one guided step of ``batch`` videos, with their latents and texts."""

    @abstractmethod
    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Of decoding ``batch`` videos, with their latents and one piece that is being written."""

    def rows_per_video(self, config: SampleConfig) -> int:
        """Rows of a batch of the transformer's that belong to a video."""
        return GUIDANCE_HALVES

    def num_latents(self, config: SampleConfig, batch: int) -> int:
        """Numbers in the transformer's input (2 * batch, C, T, H, W)."""
        frames, height, width = self.latent_size(config)
        return self.rows_per_video(config) * batch * self.in_channels * frames * height * width

    def num_hidden_states(self, config: SampleConfig, batch: int) -> int:
        """Numbers in the transformer's hidden states (2 * batch, tokens, channels)."""
        frames, height, width = self.latent_size(config)
        rows, columns = self.patch_size
        tokens = frames * -(-height // rows) * -(-width // columns)
        return self.rows_per_video(config) * batch * tokens * self.hidden_size


@dataclass(frozen=True)
class OpenSoraShapes(ModelShapes):
    """Of STDiT3 and Open-Sora's autoencoder."""

    transformer: STDiT3Config
    vae: VideoAutoencoderConfig

    @property
    def depth(self) -> int:
        """As its config.json says."""
        return self.transformer.depth

    @property
    def in_channels(self) -> int:
        """As its config.json says."""
        return self.transformer.in_channels

    @property
    def hidden_size(self) -> int:
        """As its config.json says."""
        return self.transformer.hidden_size

    @property
    def patch_size(self) -> tuple[int, int]:
        """As its config.json says; patches are one latent frame long."""
        return self.transformer.patch_size[1:]

    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Frames chunk by chunk."""
        pixels = 2 ** (len(self.vae.autoencoder_kl["block_out_channels"]) - 1)
        per_latent = self.vae.temporal.time_factor
        full, rest = divmod(config.num_frames, config.vae.micro_frame_size or config.num_frames)
        frames = -(-rest // per_latent)
        if full:
            frames += full * -(-(config.num_frames - rest) // full // per_latent)
        sides = (config.height, config.width)
        return frames, *(side // pixels if config.compat else -(-side // pixels) for side in sides)

    def weight_bytes(self, config: SampleConfig) -> int:
        """With both halves of the autoencoder, encoder and decoder."""
        from opensora.memory.weights import autoencoder_bytes, transformer_bytes

        return transformer_bytes(config, self) + autoencoder_bytes(config, self)

    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Found by running the model without storage."""
        from opensora.memory.activations import denoise_activations

        return denoise_activations(config, self, batch)

    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Found by running the decoder without storage."""
        from opensora.memory.activations import decode_activations

        return decode_activations(config, self, batch)


def read_shapes(config: SampleConfig) -> ModelShapes:
    """The sizes of the models that ``config`` names, with its own settings of the autoencoder.

    Raises:
        ConfigError: a ``config.json`` cannot be read or does not describe such a model, or there is none of a model
            that is not a published one.
    """
    text = read_entries(config, "text_encoder", dict)
    if isinstance(config.model, LatteModelConfig):
        from opensora.memory.latte import read_latte_shapes

        return read_latte_shapes(config, text)
    from opensora.models.stdit import STDiT3Config
    from opensora.models.vae import VideoAutoencoderConfig

    qk_norm = {} if config.model.qk_norm is None else {"qk_norm": config.model.qk_norm}
    micro = {"micro_frame_size": config.vae.micro_frame_size, "micro_batch_size": config.vae.micro_batch_size}
    return OpenSoraShapes(
        transformer=read_entries(config, "model", lambda entries: STDiT3Config.from_dict({**entries, **qk_norm})),
        vae=read_entries(config, "vae", lambda entries: VideoAutoencoderConfig.from_dict({**entries, **micro})),
        text=text,
    )


def read_entries(config: SampleConfig, section: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """What ``build`` makes of the entries of a piece's ``config.json``, without one of those of the published piece.

    Raises:
        ConfigError: as ``read_shapes``.
    """
    wanted, published = getattr(config, section).from_pretrained, PUBLISHED[getattr(config, section).type]
    piece = find_piece(section, wanted, config.weights_dir)
    file = piece.path and config_file(piece.path)
    if file is None:
        if piece.path is None and wanted not in published:
            raise ConfigError(
                f"{section}.from_pretrained='{wanted}' is not on this machine, so that its size is not known; give a "
                f"folder with its config.json, or {' or '.join(published)}"
            )
        return build(published.get(wanted) or next(iter(published.values())))
    try:
        return build(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be used: {error}") from error
