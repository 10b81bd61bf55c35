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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from opensora.config.model_families import family_of
from opensora.config.schema import SampleConfig
from opensora.device import DTYPES
from opensora.errors import ConfigError, one_line
from opensora.memory.live_bytes import held_bytes, peak_live_bytes
from opensora.models.stdit import STDiT3Config
from opensora.models.vae import TilingConfig
from opensora.models.vae.causal import CausalTiling
from opensora.registry import model_class
from opensora.weights.checkpoint import only_shapes
from opensora.weights.layout import config_file
from opensora.weights.locate import find_piece

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
class ModelShapes:
    """The sizes of the three models of a run, and what they take.

    Attributes:
        config: of the run.
        transformer: config of the transformer.
        vae, text: entries of the config.json of the autoencoder and of T5.
    """

    config: SampleConfig
    transformer: Any
    vae: Mapping[str, Any]
    text: Mapping[str, Any]

    @property
    def depth(self) -> int:
        """Pairs of a spatial and a temporal block."""
        return self.transformer.depth

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of latents in a token, which covers one latent frame."""
        size = self.transformer.patch_size
        return (size, size) if isinstance(size, int) else size[1:]

    @property
    def rows_per_video(self) -> int:
        """Rows of the transformer's batch that belong to one video: 2 under guidance, with and without its prompt.

        STDiT3's sampler runs both whatever the guidance scale.
        """
        return 2 if self._is_open_sora or self.config.scheduler.cfg_scale > 1 else 1

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """Frames, rows and columns of one video's latents; sides are rounded up, except with `compat`."""
        config = self.config
        pixels = config.vae.downsample(self.vae)
        sides = (config.height, config.width)
        latent_sides = (side // pixels if config.compat else -(-side // pixels) for side in sides)
        return config.vae.latent_frames(config.num_frames), *latent_sides

    @property
    def tokens_per_frame(self) -> int:
        """How many tokens the transformer makes of one latent frame."""
        _, height, width = self.latent_size
        rows, columns = self.patch_size
        return -(-height // rows) * -(-width // columns)

    def num_latents(self, batch: int) -> int:
        """Return the number of elements in the transformer's input (rows per video * batch, C, T, H, W)."""
        return self.rows_per_video * batch * self.transformer.in_channels * math.prod(self.latent_size)

    def num_hidden_states(self, batch: int) -> int:
        """Return the number of elements in the hidden states (rows per video * batch, tokens, channels)."""
        tokens = self.latent_size[0] * self.tokens_per_frame
        return self.rows_per_video * batch * tokens * self.transformer.hidden_size

    def weight_bytes(self) -> int:
        """Return the bytes of the transformer and the autoencoder (encoder and decoder) in the dtype they run in.

        The checkpoint's own sizes are not needed: it has to hold exactly the tensors of the model, in whatever file
        format and precision. All pairs of blocks are alike, so two of them tell what any number takes.
        """
        shallow, deeper = (held_bytes(self.build_transformer(depth)) for depth in (1, 2))
        return shallow + (self.depth - 1) * (deeper - shallow) + held_bytes(self.autoencoder)

    def text_bytes(self) -> tuple[int, int]:
        """Return the bytes of the text encoder's weights on the device, and of its activations for one caption.

        Streamed weights are on the device one at a time. A quantized weight is widened while it is multiplied with. A
        file may also hold the decoder, which is not loaded.
        """
        options, dtype = self.config.text_encoder, DTYPES[self.config.text_encoder.dtype]
        with only_shapes():
            model = T5EncoderModel(T5Config.from_dict(self.text)).to(dtype).eval()
        tokens = torch.zeros(1, options.model_max_length, dtype=torch.long, device="meta")
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

    def denoise_activations(self, batch: int, references: bool = False) -> int:
        """Return the peak bytes of activations in one guided step of `batch` videos, with their latents and texts.

        Texts have their full length here; Latte's sampler cuts them to the longest. With `references`, frames are
        given, as they are in loops.
        """
        config, rows, model = self.config, self.rows_per_video, self.build_transformer(_DEPTH)
        dtype, shape = DTYPES[config.dtype], (batch, self.transformer.in_channels, *self.latent_size)
        text_shape = (batch, 1, config.text_encoder.model_max_length, self.transformer.caption_channels)
        with torch.device("meta"):
            times = torch.empty(rows * batch)
            options = {"fps": times, "height": times, "width": times} if self._is_open_sora else {}
            if references or config.loop > 1:
                options["x_mask"] = torch.empty(rows * batch, shape[2], dtype=torch.bool)

        def step() -> None:
            z = torch.empty(shape, dtype=dtype if self._is_open_sora else torch.float32, device="meta")
            y = torch.empty(text_shape, dtype=dtype, device="meta")
            texts = torch.cat([y] * rows)
            out = model(torch.cat([z] * rows).to(dtype), times, texts, **options).float()
            out = out[:, : shape[1]]
            if rows > 1:
                conditional, unconditional = out.chunk(rows)
                out = unconditional + config.scheduler.cfg_scale * (conditional - unconditional)
            torch.isfinite(z + out).all()

        with _computed_step(config) as controller:
            options |= controller
            peak = peak_live_bytes(step)
        return peak + _REMEMBERED.get(config.scheduler.type, 0) * math.prod(shape) * torch.float32.itemsize

    def decode_activations(self, batch: int) -> int:
        """Return the peak bytes of decoding `batch` videos, with their latents and a piece that is being written."""
        vae, size = copy(self.autoencoder), self.latent_size
        tiling = getattr(vae, "tiling", None)
        if isinstance(tiling, TilingConfig):
            vae.tiling = TilingConfig(max(tiling.tile_size, -(-max(size[1:]) // _TILES_PER_SIDE)))
        z = torch.empty(batch, vae.out_channels, *size, device="meta")
        return decoding_bytes(vae, z, self.config.num_frames) + z.nbytes

    def reference_activations(self) -> int:
        """Return the peak bytes of encoding a clip as long as the video with Open-Sora's autoencoder, with its pixels.

        The halves of the autoencoder work one after the other: the spatial one on a few frames at a time, the temporal
        one on a chunk.
        """
        vae, dtype, frames = self.autoencoder, DTYPES[self.config.dtype], self.config.num_frames
        (_, rows, columns), factor = self.latent_size, vae.downsample
        at_once = 1 if vae.tiling else min(vae.config.micro_batch_size or frames, frames)
        in_chunk = min(vae.config.micro_frame_size or frames, frames)
        clip = torch.empty(1, 3, at_once, rows * factor, columns * factor, dtype=dtype, device="meta")
        chunk = torch.empty(1, vae.config.temporal.in_out_channels, in_chunk, rows, columns, dtype=dtype, device="meta")
        spatial = peak_live_bytes(lambda: vae.spatial_vae.encode(clip, False, None, vae.tiling))
        temporal = peak_live_bytes(lambda: vae.temporal_vae.encode(chunk, vae.tiling))
        pixels = 3 * frames * rows * columns * factor**2
        copies = {torch.float32, dtype}  # as the clip is given, and as the autoencoder wants it
        return pixels * sum(copy.itemsize for copy in copies) + max(spatial, temporal)

    def build_transformer(self, depth: int) -> nn.Module:
        """Build the transformer on the meta device, with at most `depth` pairs of blocks."""
        kind = self.config.model.type
        shallow = replace(self.transformer, **{family_of(kind).depth_key: min(depth, self.depth)})
        with only_shapes():
            model = model_class(kind)(shallow)
        return model.to(DTYPES[self.config.dtype]).eval()

    @cached_property
    def autoencoder(self) -> nn.Module:
        """The autoencoder on the meta device, with the config's options.

        Raises:
            ConfigError: the entries of its config.json describe no such autoencoder.
        """
        options, entries = self.config.vae, dict(self.vae)
        if options.type == "OpenSoraVAE_V1_2":
            entries |= {"micro_frame_size": options.micro_frame_size, "micro_batch_size": options.micro_batch_size}
        try:
            with only_shapes():
                vae = model_class(options.type).from_config(entries)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"config.json of {options.from_pretrained} cannot be used: {one_line(error)}") from error
        if options.type == "AutoencoderKL":
            vae.micro_batch_size = options.micro_batch_size
        elif options.tiling and options.type == "CausalVAE":
            vae.tiling = CausalTiling()
        elif options.tiling:
            vae.tiling = TilingConfig() if options.tile_size is None else TilingConfig(options.tile_size)
        return vae.to(DTYPES[self.config.dtype]).eval()

    @property
    def _is_open_sora(self) -> bool:
        return isinstance(self.transformer, STDiT3Config)


@contextmanager
def _computed_step(config: SampleConfig) -> Iterator[dict[str, StepController]]:
    """Give the argument of a model in a computed step of a run with a cache, which takes a residual; else none."""
    if config.cache is None:
        yield {}
        return
    controller = StepController(StaticScheduleConfig((0,)))
    with controller.run(1):
        controller.begin_step(0, 0.0)
        yield {"controller": controller}


def decoding_bytes(vae: nn.Module, z: Tensor, num_frames: int) -> int:
    """Return the peak bytes of tensors while latents `z` are decoded, without themselves and without weights.

    The decoder runs up to its first piece, which counts twice, as it is written while the next one is made: later
    pieces are at most as large, and leave nothing behind. Work space inside kernels (cuDNN's, or oneDNN's) comes on
    top.

    Args:
        vae: an autoencoder, on the meta device like `z`.
    """
    pieces = []
    peak = peak_live_bytes(lambda: pieces.append(next(vae.decode_chunks(z, num_frames))))
    return peak + pieces[0].nbytes


def read_shapes(config: SampleConfig) -> ModelShapes:
    """Read the sizes of the models that `config` names, with its own settings of the autoencoder.

    Raises:
        ConfigError: a `config.json` cannot be read or does not describe such a model, or a model is neither on this
            machine nor a published one.
    """
    own = {} if getattr(config.model, "qk_norm", None) is None else {"qk_norm": config.model.qk_norm}
    build = model_class(config.model.type).config_class.from_dict
    transformer = _read_entries(config, "model", lambda entries: build({**entries, **own}))
    vae, text = (_read_entries(config, section, dict) for section in ("vae", "text_encoder"))
    return ModelShapes(config, transformer, vae, text)


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
