"""Whether a piece's files hold the tensors that its model has, by names and shapes alone."""

from __future__ import annotations

from pathlib import Path

from opensora.utils.errors import one_line
from opensora.utils.weights.layout import weight_files
from opensora.utils.weights.tensor_files import read_shapes

_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files may hold either


def check_fit(name: str, path: Path) -> str:
    """The class whose tensors are all in the files of a piece, one of ``PIECES``.

    Raises:
        CheckpointError: tensors are missing, unknown or of another shape, or config.json cannot be used.
        WeightsError: a file is damaged.
    """
    if name == "text_encoder":
        return _check_t5(path)
    from opensora.models.stdit import STDiT3
    from opensora.models.vae.vae import VideoAutoencoderPipeline

    model = STDiT3 if name == "model" else VideoAutoencoderPipeline
    model.check_pretrained(path)
    return model.__name__


def _check_t5(folder: Path) -> str:
    import torch
    from transformers import T5Config, T5EncoderModel

    from opensora.models.checkpoint import CheckpointError, read_config

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
