"""Memory that the models of a run take, found from their sizes alone: no weights are read, and none need to be there.

A model's sizes are those of its config.json; without one, as with published models that are not downloaded yet, they
are the published sizes. Weights are counted in models on the meta device, activations by running these (`live_bytes`).
The transformer runs with two pairs of blocks: a pair frees all it made but its output, so more pairs would take longer
but no more memory. The step cache is not included (`adacache.memory`); its temporaries, a few hidden states, live only
after a block has freed larger ones.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from opensora.config.schema import LatteModelConfig, SampleConfig
from opensora.device import DTYPES
from opensora.errors import ConfigError
from opensora.latent_frames import chunked_latent_frames
from opensora.memory.live_bytes import held_bytes, peak_live_bytes
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.vae import TilingConfig, VideoAutoencoderConfig, VideoAutoencoderPipeline
from opensora.models.vae.causal import CausalTiling, CausalVAE
from opensora.models.vae.image_vae import CLASSES, ImageVAE
from opensora.registry import model_class
from opensora.weights.layout import config_file
from opensora.weights.locate import find_piece

_HALVES = 2  # rows per video under guidance: with and without its prompt
_DEPTH = 2  # pairs of blocks that are run
_TILES_PER_SIDE = 5  # many small tiles take long to run through, and hold hardly less than a few larger ones
# Scheduler -> how many tensors as large as the latents it keeps; pndm: four predictions, a sample and their sums.
_REMEMBERED = {"pndm": 8}
_FULL_LAYER = "wo"  # of T5, which needs its range: not quantized, and in float32 where others are in fp16
_INT8_SCALE_BYTES = 4  # per row of a quantized weight

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

# Type of a section -> repository -> what its config.json adds to the defaults of the class that reads it. Weights
# without a config.json are taken to be of the first one's sizes.
# Source: config.json of the repositories; for Latte-1 and Open-Sora-Plan v1.1.0 the configurations that follow from
# their training and sampling scripts, as their config.json were not at hand.
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


@dataclass(frozen=True)
class ModelShapes(ABC):
    """The sizes of the three models of a run, and what they take.

    Attributes:
        transformer: config of the transformer.
        vae: config of the autoencoder, or the entries of its config.json.
        text: entries of the config.json of a T5.
    """

    transformer: Any
    vae: Any
    text: dict[str, Any]

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of latents in a token."""

    @abstractmethod
    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Return (frames, height, width) of one video's latents; sides are rounded up, except with `compat`."""

    @abstractmethod
    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of activations in one guided step of `batch` videos, with their latents and texts."""

    @abstractmethod
    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of decoding `batch` videos, with their latents, up to the first piece.

        Later pieces are no larger.
        """

    @abstractmethod
    def build_transformer(self, config: SampleConfig, depth: int) -> nn.Module:
        """Build the transformer on the meta device, with at most `depth` pairs of blocks."""

    @abstractmethod
    def build_autoencoder(self, config: SampleConfig) -> nn.Module:
        """Build the autoencoder on the meta device, with the config's options."""

    @property
    def depth(self) -> int:
        """Pairs of a spatial and a temporal block."""
        return self.transformer.depth

    def rows_per_video(self, config: SampleConfig) -> int:
        """Return how many rows of the transformer's batch belong to one video."""
        return _HALVES

    def num_latents(self, config: SampleConfig, batch: int) -> int:
        """Return the number of elements in the transformer's input (rows per video * batch, C, T, H, W)."""
        return self.rows_per_video(config) * batch * self.transformer.in_channels * math.prod(self.latent_size(config))

    def num_hidden_states(self, config: SampleConfig, batch: int) -> int:
        """Return the number of elements in the hidden states (rows per video * batch, tokens, channels)."""
        frames, height, width = self.latent_size(config)
        rows, columns = self.patch_size
        tokens = frames * -(-height // rows) * -(-width // columns)
        return self.rows_per_video(config) * batch * tokens * self.transformer.hidden_size

    def weight_bytes(self, config: SampleConfig) -> int:
        """Return the bytes of the transformer and the autoencoder (encoder and decoder) in the dtype they run in.

        The checkpoint's own sizes are not needed: it has to hold exactly the tensors of the model, in whatever file
        format and precision.
        """
        return held_bytes(self.build_transformer(config, self.depth)) + held_bytes(self.build_autoencoder(config))

    def text_bytes(self, config: SampleConfig) -> tuple[int, int]:
        """Return the bytes of the text encoder's weights on the device, and of its activations for one caption.

        Streamed weights are on the device one at a time. A quantized weight is widened while it is multiplied with. A
        file may also hold the decoder, which is not loaded.
        """
        options, dtype = config.text_encoder, DTYPES[config.text_encoder.dtype]
        with torch.device("meta"):
            model = T5EncoderModel(T5Config.from_dict(self.text)).to(dtype).eval()
            tokens = torch.zeros(1, options.model_max_length, dtype=torch.long)
        activations = peak_live_bytes(lambda: model(input_ids=tokens))
        layers = {name: layer for name, layer in model.encoder.block.named_modules() if isinstance(layer, nn.Linear)}
        full = {name for name in layers if name.endswith(f".{_FULL_LAYER}")}
        weights = held_bytes(model)
        if options.stream:
            blocks = held_bytes(model.encoder.block)
            return weights - blocks + max(layer.weight.nbytes for layer in layers.values()), activations
        if options.dtype == "fp16":
            weights += sum(layers[name].weight.nbytes for name in full)
        if options.quantize == "int8":
            quantized = [layers[name].weight for name in layers.keys() - full]
            weights -= sum(weight.nbytes - weight.numel() - _INT8_SCALE_BYTES * len(weight) for weight in quantized)
            activations += max(weight.nbytes for weight in quantized)
        return weights, activations


@dataclass(frozen=True)
class OpenSoraShapes(ModelShapes):
    """Sizes of STDiT3 and Open-Sora's autoencoder."""

    transformer: STDiT3Config
    vae: VideoAutoencoderConfig

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of latents in a token, by config.json; a token covers one latent frame."""
        return self.transformer.patch_size[1:]

    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Return (frames, height, width) of one video's latents, counting frames chunk by chunk."""
        frames = chunked_latent_frames(config.num_frames, config.vae.micro_frame_size, self.vae.temporal.time_factor)
        sides = (config.height, config.width)
        return frames, *(side // self._pixels if config.compat else -(-side // self._pixels) for side in sides)

    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of a step, found by running the model on the meta device."""
        model, dtype, size = self.build_transformer(config, _DEPTH), DTYPES[config.dtype], self.latent_size(config)
        masked = bool(config.reference_path) or config.loop > 1

        def step() -> None:
            with torch.device("meta"):
                z = torch.empty(batch, self.transformer.in_channels, *size, dtype=dtype)
                y = torch.empty(
                    batch, 1, self.transformer.model_max_length, self.transformer.caption_channels, dtype=dtype
                )
                per_row = torch.empty(_HALVES * batch)
                x_mask = torch.empty(_HALVES * batch, size[0], dtype=torch.bool) if masked else None
                video = {"fps": per_row, "height": per_row, "width": per_row}
                texts = torch.cat([y] * _HALVES)
                out = model(torch.cat([z] * _HALVES), per_row, texts, x_mask=x_mask, **video)
            conditional, unconditional = out[:, : z.shape[1]].chunk(_HALVES)
            velocity = unconditional + config.scheduler.cfg_scale * (conditional - unconditional)
            torch.isfinite(z + velocity).all()

        return peak_live_bytes(step)

    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of decoding, with one piece that is being written."""
        frames, rows, columns = self.latent_size(config)
        height, width = rows * self._pixels, columns * self._pixels
        dtype = DTYPES[config.dtype]
        size = (config.num_frames, height, width)
        activations = decode_activation_bytes(self.vae, batch, *size, dtype, tiling_of(config))
        latents = batch * self.vae.temporal.embed_dim * frames * rows * columns * torch.float32.itemsize
        at_once = min(self.vae.micro_batch_size or config.num_frames, config.num_frames)
        return activations + latents + batch * 3 * at_once * height * width * dtype.itemsize

    def reference_activations(self, config: SampleConfig) -> int:
        """Return the peak bytes of encoding a clip as long as the video, with its pixels.

        The halves of the autoencoder work one after the other: the spatial one on a few frames at a time, the temporal
        one on a chunk.
        """
        vae, dtype, tiling = self.build_autoencoder(config), DTYPES[config.dtype], tiling_of(config)
        frames, (_, rows, columns) = config.num_frames, self.latent_size(config)
        factor = vae.spatial_vae.downsample
        at_once = 1 if tiling else min(self.vae.micro_batch_size or frames, frames)
        in_chunk = min(self.vae.micro_frame_size or frames, frames)
        clip = torch.empty(1, 3, at_once, rows * factor, columns * factor, dtype=dtype, device="meta")
        chunk = torch.empty(1, self.vae.temporal.in_out_channels, in_chunk, rows, columns, dtype=dtype, device="meta")
        spatial = peak_live_bytes(lambda: vae.spatial_vae.encode(clip, False, None, tiling))
        temporal = peak_live_bytes(lambda: vae.temporal_vae.encode(chunk, tiling))
        pixels = 3 * frames * rows * columns * factor**2
        copies = {torch.float32, dtype}  # as the clip is given, and as the autoencoder wants it
        return pixels * sum(copy.itemsize for copy in copies) + max(spatial, temporal)

    def build_transformer(self, config: SampleConfig, depth: int) -> STDiT3:
        """Build STDiT3 on the meta device."""
        with torch.device("meta"):
            model = STDiT3(replace(self.transformer, depth=min(depth, self.depth)))
        return model.to(DTYPES[config.dtype]).eval()

    def build_autoencoder(self, config: SampleConfig) -> VideoAutoencoderPipeline:
        """Build both halves of the autoencoder on the meta device."""
        return _build_vae(self.vae, DTYPES[config.dtype], tiling_of(config))

    @property
    def _pixels(self) -> int:
        """Pixels per latent along a side of a frame."""
        return 2 ** (len(self.vae.autoencoder_kl["block_out_channels"]) - 1)


def tiling_of(config: SampleConfig) -> TilingConfig | None:
    """Return how Open-Sora's autoencoder cuts frames into tiles; None if it does not."""
    if not config.vae.tiling:
        return None
    return TilingConfig() if config.vae.tile_size is None else TilingConfig(config.vae.tile_size)


def decode_activation_bytes(
    config: VideoAutoencoderConfig,
    batch: int,
    frames: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    tiling: TilingConfig | None = None,
) -> int:
    """Return the peak bytes of tensors in `decode_chunks`, without weights, latents and pieces already given.

    The decoder runs on the meta device up to its first piece: later chunks and pieces are at most as large, and leave
    nothing behind. Work space inside kernels (cuDNN's, or oneDNN's) comes on top.

    Args:
        batch, frames, height, width: of the videos, in pixels.
        dtype: of weights and activations.
    """
    vae = _build_vae(config, dtype)
    size = vae.get_latent_size((frames, height, width))
    if tiling is not None:
        vae.tiling = TilingConfig(max(tiling.tile_size, -(-max(size[1:]) // _TILES_PER_SIDE)))
    return _until_first_piece(vae, torch.empty(batch, vae.out_channels, *size, dtype=dtype, device="meta"), frames)


def _build_vae(
    config: VideoAutoencoderConfig, dtype: torch.dtype, tiling: TilingConfig | None = None
) -> VideoAutoencoderPipeline:
    with torch.device("meta"):
        return VideoAutoencoderPipeline(config, tiling).to(dtype).eval()


def _until_first_piece(vae: nn.Module, z: Tensor, frames: int) -> int:
    """Return the peak bytes of decoding up to the first piece."""

    def decode() -> tuple[Iterator[Tensor], Tensor]:
        pieces = vae.decode_chunks(z, frames)
        return pieces, next(pieces)

    return peak_live_bytes(decode)


@dataclass(frozen=True)
class LatteShapes(ModelShapes):
    """Sizes of Latte and Open-Sora-Plan: diffusers' transformer, with an image autoencoder or a causal one."""

    vae: Mapping[str, Any]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of latents in a token; patches are square."""
        return self.transformer.patch_size, self.transformer.patch_size

    def rows_per_video(self, config: SampleConfig) -> int:
        """Return the rows of one video: 2, or 1 without guidance, when the negative half is not run."""
        return _HALVES if config.scheduler.cfg_scale > 1 else 1

    def latent_size(self, config: SampleConfig) -> tuple[int, int, int]:
        """Return (frames, height, width) of one video's latents, by the autoencoder's config.json."""
        pixels = config.vae.downsample(self.vae)
        return config.vae.latent_frames(config.num_frames), -(-config.height // pixels), -(-config.width // pixels)

    def denoise_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of a step, found by running the model on the meta device.

        Texts have their full length here; a run cuts them to the longest.
        """
        model, dtype, rows = self.build_transformer(config, _DEPTH), DTYPES[config.dtype], self.rows_per_video(config)
        shape = (batch, self.transformer.in_channels, *self.latent_size(config))
        controller = None if config.cache is None else _ComputingController()

        def step() -> None:
            with torch.device("meta"):
                z = torch.empty(shape)
                text = torch.empty(
                    rows * batch, config.text_encoder.model_max_length, self.transformer.caption_channels, dtype=dtype
                )
                times = torch.empty(rows * batch)
            noise = model(torch.cat([z] * rows).to(dtype), times, text, controller=controller).float()
            if rows > 1:
                negative, positive = noise.chunk(rows)
                noise = negative + config.scheduler.cfg_scale * (positive - negative)
            torch.isfinite(z + noise[:, : z.shape[1]]).all()

        latents = math.prod(shape) * torch.float32.itemsize
        return peak_live_bytes(step) + _REMEMBERED.get(config.scheduler.type, 0) * latents

    def decode_activations(self, config: SampleConfig, batch: int) -> int:
        """Return the peak bytes of decoding, found by running the decoder on the meta device."""
        z = torch.empty(batch, self.transformer.in_channels, *self.latent_size(config), device="meta")
        return _until_first_piece(self.build_autoencoder(config), z, config.num_frames) + z.nbytes

    def build_transformer(self, config: SampleConfig, depth: int) -> nn.Module:
        """Build either type of transformer on the meta device."""
        with torch.device("meta"):
            model = model_class(config.model.type)(replace(self.transformer, num_layers=min(depth, self.depth)))
        return model.to(DTYPES[config.dtype]).eval()

    def build_autoencoder(self, config: SampleConfig) -> nn.Module:
        """Build either type of autoencoder on the meta device."""
        with torch.device("meta"):
            if config.vae.type == "CausalVAE":
                tiling = CausalTiling() if config.vae.tiling else None
                vae = CausalVAE(CausalVAE.config_class.from_dict(self.vae), tiling)
            else:
                kind = getattr(diffusers, self.vae.get("_class_name", CLASSES[0]))
                vae = ImageVAE(kind.from_config(dict(self.vae)), config.vae.micro_batch_size)
        return vae.to(DTYPES[config.dtype]).eval()


class _ComputingController:
    """Stands in for a step controller at a step that is computed."""

    observed_sites = ()

    def stack(self, hidden_states: Tensor, run_blocks: Callable[[Tensor], Tensor], *rest: Any) -> Tensor:
        """Run the blocks, like `StepController.stack`."""
        return run_blocks(hidden_states) + torch.zeros_like(hidden_states)  # the residual is taken while both live

    def held_output(self, context: str, modality: int = 0) -> None:
        """Hold no output, unlike `StepController.held_output`: the model has to be called."""

    def output(self, latents: Tensor, output: Tensor, context: str, modality: int = 0) -> Tensor:
        """Return the output as it is, like `StepController.output`."""
        return output


def read_shapes(config: SampleConfig) -> ModelShapes:
    """Read the sizes of the models that `config` names, with its own settings of the autoencoder.

    Raises:
        ConfigError: a `config.json` cannot be read or does not describe such a model, or a model is neither on this
            machine nor a published one.
    """
    text = _read_entries(config, "text_encoder", dict)
    if isinstance(config.model, LatteModelConfig):
        transformer = _read_entries(config, "model", model_class(config.model.type).config_class.from_dict)
        return LatteShapes(transformer=transformer, vae=_read_entries(config, "vae", dict), text=text)
    qk_norm = {} if config.model.qk_norm is None else {"qk_norm": config.model.qk_norm}
    micro = {"micro_frame_size": config.vae.micro_frame_size, "micro_batch_size": config.vae.micro_batch_size}
    return OpenSoraShapes(
        transformer=_read_entries(config, "model", lambda entries: STDiT3Config.from_dict({**entries, **qk_norm})),
        vae=_read_entries(config, "vae", lambda entries: VideoAutoencoderConfig.from_dict({**entries, **micro})),
        text=text,
    )


def _read_entries(config: SampleConfig, section: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return what `build` makes of the entries of a piece's `config.json` or, without one, of the published piece's.

    Raises:
        ConfigError: as `read_shapes`.
    """
    wanted, published = getattr(config, section).from_pretrained, PUBLISHED[getattr(config, section).type]
    piece = find_piece(section, wanted, config.weights_dir)
    file = piece.path and config_file(piece.path)
    if file is None:
        if piece.path is None and wanted not in published:
            raise ConfigError(
                f"{section}.from_pretrained='{wanted}' is not on this machine, so its size is not known; give a folder "
                f"with its config.json, or {' or '.join(published)}"
            )
        return build(published.get(wanted) or next(iter(published.values())))
    try:
        return build(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be used: {error}") from error
