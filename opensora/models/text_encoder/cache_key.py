"""What the result of encoding a caption depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from opensora.config.conditions import fingerprint
from opensora.config.schema import TextEncoderConfig
from opensora.weights.layout import tokenizer_folder

_SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def encoder_key(text: TextEncoderConfig, device_type: str) -> str:
    """A hash of everything beside the caption that changes what the encoder in a folder gives.

    The kind of device is part of it, because rounding differs; streaming is not, because nothing differs.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        WeightsError: the folder holds no weights.
        OSError: a file cannot be read.
    """
    folder = Path(text.from_pretrained)
    digest = hashlib.sha256()
    settings = (fingerprint(folder), text.model_max_length, text.dtype, text.quantize, device_type)
    digest.update(repr(settings).encode())
    for place in dict.fromkeys((folder, tokenizer_folder(folder) or folder)):
        for name in _SMALL_FILES:
            file = place / name
            if file.is_file():
                digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()
