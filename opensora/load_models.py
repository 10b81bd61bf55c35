"""Loading the three models of a config, after checking that they belong together."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.config.model_families import check_size_limits, family_of
from opensora.config.reading import Source
from opensora.config.schema import SampleConfig
from opensora.config.target import check_calibrated_model
from opensora.device import DTYPES, check_compiler, check_device
from opensora.errors import ConfigError
from opensora.models.text_encoder import check_text_options
from opensora.protocols import VideoAutoencoder, VideoModel
from opensora.registry import MODELS, build_module, model_class
from opensora.weights import locate_weights
from opensora.weights.checkpoint import read_config
from opensora.weights.download import download_missing

if TYPE_CHECKING:
    from opensora.models.text_encoder.t5 import T5Encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModels:
    """The models of a pipeline; `config` names the folders they came from."""

    config: SampleConfig
    model: VideoModel
    vae: VideoAutoencoder
    text_encoder: T5Encoder | None


def load_models(config: SampleConfig, with_text_encoder: bool = True) -> LoadedModels:
    """Load the models that `config` names; with `with_text_encoder=False` the text encoder is only checked.

    Raises:
        ConfigError: the device does not exist or cannot be compiled for, the models do not belong together, or the
            target was calibrated with other weights.
        WeightsError: weights are missing, unreachable or damaged, or do not fit their model.
    """
    dtype = DTYPES[config.dtype]
    device = check_device(config.device, dtype)
    if config.compile:
        check_compiler(device)
    config = download_missing(locate_weights(config)).applied_to(config)
    check_text_options(config)
    check_calibrated_model(config)
    check_models(config)
    started = time.monotonic()
    logger.info("loading transformer (%s)", config.model.from_pretrained)
    model = build_module(vars(config.model), MODELS, dtype=dtype, device=device)
    if config.compile:
        logger.info("compiling the transformer: the first steps take longer")
        model.compile_blocks()
    logger.info("loading autoencoder (%s)", config.vae.from_pretrained)
    vae = build_module(vars(config.vae), MODELS, dtype=dtype, device=device)
    text_encoder = None
    if with_text_encoder:
        logger.info("loading text encoder (%s)", config.text_encoder.from_pretrained)
        text_dtype = DTYPES[config.text_encoder.dtype]
        text_encoder = build_module(vars(config.text_encoder), MODELS, dtype=text_dtype, device=device)
    logger.info("loaded in %.1f s", time.monotonic() - started)
    return LoadedModels(config, model, vae, text_encoder)


def check_models(config: SampleConfig) -> None:
    """Check that the checkpoints in the folders of `config` fit their models and each other; no weights are read.

    Raises:
        ConfigError: the transformer cannot read the text encoder's tokens, or make videos of this length or size.
        WeightsError: a checkpoint does not fit its model.
    """
    qk_norm = {} if getattr(config.model, "qk_norm", None) is None else {"qk_norm": config.model.qk_norm}
    model = model_class(config.model.type).check_pretrained(config.model.from_pretrained, **qk_norm)
    model_class(config.vae.type).check_pretrained(config.vae.from_pretrained)
    text = config.text_encoder
    if family_of(config.model.type).fixed_text_length and text.model_max_length != model.model_max_length:
        raise ConfigError(
            f"text_encoder.model_max_length is {text.model_max_length}, but the transformer in "
            f"{config.model.from_pretrained} reads {model.model_max_length} tokens; set it to that"
        )
    width = read_config(Path(text.from_pretrained)).get("d_model")
    if width != model.caption_channels:
        raise ConfigError(
            f"the text encoder in {text.from_pretrained} has features of width {width}, but the transformer in "
            f"{config.model.from_pretrained} reads {model.caption_channels}; they do not belong together"
        )
    check_size_limits(config, Source(config.path))
