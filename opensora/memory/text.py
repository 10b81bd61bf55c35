"""The text encoder's memory: weights as they are held, and what encoding one caption takes."""

from __future__ import annotations

import torch
from torch import nn

from opensora.config.schema import SampleConfig
from opensora.dtypes import DTYPES
from opensora.memory.live_bytes import peak_live_bytes
from opensora.memory.shapes import ModelShapes
from opensora.memory.weights import held_bytes

_FULL_LAYER = "wo"  # the one that is not quantized, and in float32 where others are in fp16: T5 needs its range
_INT8_SCALE_BYTES = 4  # per row of a quantized weight


def text_bytes(config: SampleConfig, shapes: ModelShapes) -> tuple[int, int]:
    """Bytes of the encoder's weights on the device, and of its activations for one caption.

    What is streamed is on the device one weight at a time. A quantized weight is widened while it is multiplied with.
    """
    from transformers import T5Config, T5EncoderModel

    options, dtype = config.text_encoder, DTYPES[config.text_encoder.dtype]
    with torch.device("meta"):
        model = T5EncoderModel(T5Config.from_dict(shapes.text)).to(dtype).eval()
        tokens = torch.zeros(1, options.model_max_length, dtype=torch.long)
    activations = peak_live_bytes(lambda: model(input_ids=tokens))
    layers = {name: module for name, module in model.encoder.block.named_modules() if isinstance(module, nn.Linear)}
    full = {name for name in layers if name.endswith(f".{_FULL_LAYER}")}
    if options.stream:
        blocks = held_bytes(model.encoder.block)
        return held_bytes(model) - blocks + max(layer.weight.nbytes for layer in layers.values()), activations
    weights = held_bytes(model)
    if options.dtype == "fp16":
        weights += sum(layers[name].weight.nbytes for name in full)
    if options.quantize == "int8":
        quantized = [layers[name].weight for name in layers.keys() - full]
        weights -= sum(weight.nbytes - weight.numel() - _INT8_SCALE_BYTES * len(weight) for weight in quantized)
        activations += max(weight.nbytes for weight in quantized)
    return weights, activations
