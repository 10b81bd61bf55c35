"""What each stage of a run takes on its device, before anything is loaded.

Stages, one after the other:
- text: the text encoder alone encodes one caption at a time, and is released;
- references, where there are any: with transformer and autoencoder loaded, given clips are encoded;
- denoise: one guided step of a whole batch, and the step cache;
- decode: the autoencoder makes frames of the batch's latents; the cache is gone, the transformer stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opensora.config.schema import SampleConfig
from opensora.memory.cache_memory import cache_bytes
from opensora.memory.shapes import read_shapes

Stage = Literal["text", "references", "denoise", "decode"]


@dataclass(frozen=True)
class StageEstimate:
    """Bytes on the device while a stage is at its largest.

    Attributes:
        weights: of all models that are loaded then.
        activations: latents, texts and pixels included.
        cache: the step cache's residuals and what it measures with, as far as they are on the device.
    """

    name: Stage
    weights: int
    activations: int
    cache: int = 0

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.weights + self.activations + self.cache


def estimate_stages(
    config: SampleConfig, batch: int, device: Literal["cuda", "cpu"] = "cuda", text: bool = True
) -> list[StageEstimate]:
    """The stages of a run in batches of ``batch`` videos; found in a second or two, with tiles in two or three.

    Args:
        config: models may be folders, files or published repositories; weights need not be there for the latter.
        device: on the CPU, a cache with cache_device="cpu" counts too.
        text: whether the text encoder is loaded at all; it is not where every caption's features are known.

    Raises:
        ConfigError: the models' sizes are not known (``read_shapes``).
    """
    from opensora.memory.activations import reference_activations
    from opensora.memory.text import text_bytes

    shapes = read_shapes(config)
    weights = shapes.weight_bytes(config)
    cache = cache_bytes(config, shapes, batch)
    on_device = cache is not None and (device == "cpu" or config.cache.cache_device == "model")
    stages = [StageEstimate("text", *text_bytes(config, shapes))] if text else []
    if config.reference_path:
        stages.append(StageEstimate("references", weights, reference_activations(config, shapes)))
    denoise = shapes.denoise_activations(config, batch)
    stages.append(StageEstimate("denoise", weights, denoise, cache.total if on_device else 0))
    stages.append(StageEstimate("decode", weights, shapes.decode_activations(config, batch)))
    return stages
