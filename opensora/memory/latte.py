"""What Latte and Open-Sora-Plan take: diffusers' transformer, with an image autoencoder or a causal one.

Weights are those of the models built without storage, activations those of running them so: the transformer at two
pairs of blocks, since a pair frees all it made but its output, and the decoder up to its first piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from opensora.config.schema import SampleConfig
from opensora.memory.activations import DTYPES
from opensora.memory.live_bytes import peak_live_bytes
from opensora.memory.shapes import GUIDANCE_HALVES, ModelShapes, read_entries
from opensora.memory.weights import held_bytes
from opensora.weights.fit import model_class

if TYPE_CHECKING:
    from opensora.models.latte import LatteConfig

_DEPTH = 2
# Tensors like the latents that a solver keeps from step to step: pndm four predictions, a sample and their sums.
_REMEMBERED = {"pndm": 8}


@dataclass(frozen=True)
class LatteShapes(ModelShapes):
    """Of a Latte transformer of either type; ``vae`` are the entries of a config.json."""

    transformer: LatteConfig
    vae: Mapping[str, Any]

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
        """Of all heads."""
        return self.transformer.hidden_size

    @property
    def patch_size(self) -> tuple[int, int]:
        """Patches are square."""
        return self.transformer.patch_size, self.transformer.patch_size

    def rows_per_video(self, config: SampleConfig) -> int:
        """Without guidance, the negative half is not run."""
        return GUIDANCE_HALVES if config.scheduler.cfg_scale > 1 else 1

    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """As the autoencoder's config.json says."""
        pixels = config.vae.downsample(self.vae)
        return config.vae.latent_frames(config.num_frames), -(-config.height // pixels), -(-config.width // pixels)

    def weight_bytes(self, config: SampleConfig) -> int:
        """With the autoencoder's encoder."""
        return held_bytes(self._transformer(config, self.depth)) + held_bytes(self._autoencoder(config))

    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Found by running the model without storage on texts of full length, which are cut to the longest."""
        model, dtype, rows = self._transformer(config, _DEPTH), DTYPES[config.dtype], self.rows_per_video(config)
        size = self.latent_size(config)
        controller = None if config.cache is None else _ComputingController()

        def step() -> None:
            with torch.device("meta"):
                z = torch.empty(batch, self.in_channels, *size)
                text = torch.empty(
                    rows * batch, config.text_encoder.model_max_length, self.transformer.caption_channels, dtype=dtype
                )
                times = torch.empty(rows * batch)
            noise = model(torch.cat([z] * rows).to(dtype), times, text, controller=controller).float()
            if rows > 1:
                negative, positive = noise.chunk(rows)
                noise = negative + config.scheduler.cfg_scale * (positive - negative)
            torch.isfinite(z + noise[:, : z.shape[1]]).all()

        latents = batch * self.in_channels * math.prod(size) * torch.float32.itemsize
        return peak_live_bytes(step) + _REMEMBERED.get(config.scheduler.type, 0) * latents

    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Found by running the decoder without storage up to its first piece; later ones are no larger."""
        vae, size = self._autoencoder(config), self.latent_size(config)
        z = torch.empty(batch, self.in_channels, *size, device="meta")

        def first_piece() -> tuple[Iterator[Tensor], Tensor]:
            pieces = vae.decode_chunks(z, config.num_frames)
            return pieces, next(pieces)

        return peak_live_bytes(first_piece) + z.nbytes

    def _transformer(self, config: SampleConfig, depth: int) -> nn.Module:
        """The model without storage."""
        with torch.device("meta"):
            model = model_class(config.model.type)(replace(self.transformer, num_layers=min(depth, self.depth)))
        return model.to(DTYPES[config.dtype]).eval()

    def _autoencoder(self, config: SampleConfig) -> nn.Module:
        """The model without storage, with the config's options."""
        with torch.device("meta"):
            vae = _BUILDERS[config.vae.type](self.vae, config)
        return vae.to(DTYPES[config.dtype]).eval()


def _image_vae(entries: Mapping[str, Any], config: SampleConfig) -> nn.Module:
    import diffusers

    from opensora.models.vae.image_vae import CLASSES, ImageVAE

    module = getattr(diffusers, entries.get("_class_name", CLASSES[0])).from_config(dict(entries))
    return ImageVAE(module, config.vae.micro_batch_size)


def _causal_vae(entries: Mapping[str, Any], config: SampleConfig) -> nn.Module:
    from opensora.models.vae.causal import CausalTiling, CausalVAE

    return CausalVAE(CausalVAE.config_class.from_dict(entries), CausalTiling() if config.vae.tiling else None)


_BUILDERS = {"AutoencoderKL": _image_vae, "CausalVAE": _causal_vae}


class _ComputingController:
    """Stands for a step controller at a step that is computed, whose blocks run within a forward pass of its own."""

    observed_sites = ()

    def stack(self, hidden_states: Tensor, run_blocks: Callable[[Tensor], Tensor], *rest: Any) -> Tensor:
        """As ``StepController.stack``."""
        return run_blocks(hidden_states) + torch.zeros_like(hidden_states)  # the residual is taken while both live

    def output(self, latents: Tensor, output: Tensor, context: str) -> Tensor:
        """As ``StepController.output``."""
        return output


def read_latte_shapes(config: SampleConfig, text: dict[str, Any]) -> LatteShapes:
    """The sizes of the models that ``config`` names.

    Raises:
        ConfigError: as ``opensora.memory.shapes.read_shapes``.
    """
    transformer = read_entries(config, "model", model_class(config.model.type).config_class.from_dict)
    return LatteShapes(text=text, transformer=transformer, vae=read_entries(config, "vae", dict))
