"""Whether a piece's files hold the tensors that its model has, by names and shapes alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from opensora.errors import one_line
from opensora.weights.layout import weight_files
from opensora.weights.tensors import read_shapes

# What loads checkpoints of a type. Imported when asked for, as each takes its time.
_CLASSES = {
    "STDiT3-XL/2": "opensora.models.stdit:STDiT3",
    "STDiT3": "opensora.models.stdit:STDiT3",
    "Latte": "opensora.models.latte:LatteModel",
    "LatteT2V": "opensora.models.latte:OpenSoraPlanModel",
    "OpenSoraVAE_V1_2": "opensora.models.vae.vae:VideoAutoencoderPipeline",
    "AutoencoderKL": "opensora.models.vae.image_vae:ImageVAE",
    "CausalVAE": "opensora.models.vae.causal:CausalVAE",
}
_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files may hold either


def check_fit(kind: str, path: Path) -> str:
    """The class whose tensors are all in the files of a piece.

    Args:
        kind: the ``type`` of its section in a config.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape, or config.json cannot be used.
        WeightsError: a file is damaged.
    """
    if kind == "t5":
        return _check_t5(path)
    check_pretrained(kind, path)
    return model_class(kind).__name__


def check_pretrained(kind: str, path: str | Path, **options: Any) -> Any:
    """The config of a checkpoint, once it is clear that a transformer or autoencoder of type ``kind`` can load it.

    Raises:
        CheckpointError: as ``check_fit``.
    """
    return model_class(kind).check_pretrained(path, **options)


def model_class(kind: str) -> Any:
    """The class that loads checkpoints of type ``kind``."""
    module, name = _CLASSES[kind].split(":")
    return getattr(importlib.import_module(module), name)


def _check_t5(folder: Path) -> str:
    import torch
    from transformers import T5Config, T5EncoderModel

    from opensora.weights.checkpoint import CheckpointError, read_config

    try:
        config = T5Config.from_dict(read_config(folder))
        with torch.device("meta"):
            model = T5EncoderModel(config)
    except CheckpointError:
        raise
    except Exception as error:  # its own strict checks of values have no common base
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {one_line(error)}") from error
    found = read_shapes(weight_files(folder))
    for name, tensor in model.state_dict().items():
        stored = [found[other] for other in (_TIED if name in _TIED else (name,)) if other in found]
        if not stored:
            raise CheckpointError(f"{folder} does not fit T5EncoderModel: it lacks {name}")
        if stored[0] != tuple(tensor.shape):
            raise CheckpointError(
                f"{folder} does not fit T5EncoderModel: {name} has shape {stored[0]}, its config.json asks for "
                f"{tuple(tensor.shape)}"
            )
    return "T5EncoderModel"
