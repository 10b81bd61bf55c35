"""Bytes of weights as they are held once a model is loaded: by the model itself, built without storage.

A checkpoint has to hold exactly the tensors of its model (``opensora.weights.checkpoint``), in whatever file format and
precision, so that its own sizes say nothing else; a text encoder's file may also hold the decoder, which is not loaded.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from opensora.config.schema import SampleConfig
from opensora.memory.activations import DTYPES
from opensora.memory.shapes import OpenSoraShapes
from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderPipeline


def held_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers; shared ones count once."""
    return sum(tensor.nbytes for tensor in {id(t): t for t in chain(model.parameters(), model.buffers())}.values())


def transformer_bytes(config: SampleConfig, shapes: OpenSoraShapes) -> int:
    """Of the transformer."""
    with torch.device("meta"):
        return held_bytes(STDiT3(shapes.transformer).to(DTYPES[config.dtype]))


def autoencoder_bytes(config: SampleConfig, shapes: OpenSoraShapes) -> int:
    """Of the autoencoder, both halves with encoder and decoder."""
    with torch.device("meta"):
        return held_bytes(VideoAutoencoderPipeline(shapes.vae).to(DTYPES[config.dtype]))
