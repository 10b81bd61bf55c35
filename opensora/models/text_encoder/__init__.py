"""From prompt text to embeddings: caption cleaning, the T5 encoder, and a check of what it needs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from opensora.config.schema import SampleConfig
from opensora.errors import ConfigError

# The oldest versions that transformers works with.
_TORCHAO = ("torchao", "0.15.0")
_ACCELERATE = ("accelerate", "1.1.0")


def check_text_options(config: SampleConfig) -> None:
    """Refuse a quantized or streamed text encoder that could not be loaded, before anything is loaded.

    Raises:
        ConfigError: a package is missing or too old, or the options cannot be combined.
    """
    text = config.text_encoder
    if text.quantize and text.stream:
        raise ConfigError(
            "text_encoder.quantize and text_encoder.stream cannot be combined: weights are quantized when they are "
            "read, and streaming reads them for every caption; choose one"
        )
    if text.dtype == "fp16" and (text.quantize or text.stream):
        # In fp16 T5 overflows unless some weights stay in float32, and quantized or streamed ones do not.
        option = "quantize" if text.quantize else "stream"
        raise ConfigError(f"text_encoder.{option} does not work with text_encoder.dtype='fp16'; set it to bf16 or fp32")
    if text.quantize:
        _check_package(f"text_encoder.quantize='{text.quantize}'", *_TORCHAO)
    if text.stream:
        _check_package("text_encoder.stream", *_ACCELERATE)


def _check_package(option: str, name: str, minimum: str) -> None:
    try:
        found = version(name)
    except PackageNotFoundError:
        found = None
    if found is None or Version(found) < Version(minimum):
        state = "is not installed" if found is None else f"is {found} here"
        raise ConfigError(f"{option} needs {name} {minimum} or newer, which {state}; pip install '{name}>={minimum}'")
