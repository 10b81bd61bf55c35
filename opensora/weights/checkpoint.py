"""Loading and saving models: config and weights in any layout of ``opensora.weights.layout``.

Models are saved in the Hugging Face layout, a folder with ``config.json`` and ``model.safetensors``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adacache.atomic import atomic_path
from opensora.errors import UserError, WeightsError
from opensora.files import find_path
from opensora.weights import layout
from opensora.weights.download import download
from opensora.weights.layout import CONFIG_NAME
from opensora.weights.locate import Piece, find_piece
from opensora.weights.tensors import load_tensors, read_shapes

WEIGHTS_NAME = "model.safetensors"

# Constants that some versions of the training code kept among the weights; they are computed here.
# Source: Open-Sora, PositionEmbedding2D; the package rotary_embedding_torch.
COMPUTED_TENSORS = frozenset({"pos_embed.inv_freq", "rope.dummy", "rope.cached_freqs"})


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable, or does not fit the model it is loaded into."""


def locate(path_or_repo: str | os.PathLike[str]) -> Path:
    """Folder or file that holds the checkpoint: a local one as it is, otherwise the snapshot of a hub repository.

    Raises:
        CheckpointError: neither on this machine nor a repository that can be fetched.
    """
    wanted = os.fspath(path_or_repo)
    if (given := find_path(wanted)) is not None:
        return given
    try:
        piece = find_piece("model", wanted)
        if piece.is_complete:
            return piece.path
        if piece.repo is None:
            raise CheckpointError(f"'{wanted}' is neither a folder, a weight file nor the name of a hub repository")
        return download([Piece("model", wanted)])["model"]
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint as a dict.

    It is empty, which stands for the published sizes, for a weight file or training checkpoint without one.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    file = layout.config_file(path)
    try:
        if file is None and layout.may_lack_config(path):
            return {}
        return json.loads((file or path / CONFIG_NAME).read_text(encoding="utf-8"))
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} holds no {CONFIG_NAME}; a checkpoint folder needs one") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error


def weight_files(path: Path) -> list[Path]:
    """All weight files of a checkpoint, single or sharded.

    Raises:
        CheckpointError: no weights, or a shard that the index names is missing.
    """
    try:
        files = layout.weight_files(path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    if not files:
        raise CheckpointError(f"{path} holds no weights: {' or '.join(layout.gaps(path, 'model'))}")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing)}")
    return files


def check_fits(model: nn.Module, files: Sequence[Path], unused: frozenset[str] = COMPUTED_TENSORS) -> None:
    """Compare names and shapes of the tensors in ``files`` with ``model``, which may live on the meta device.

    Only headers are read, so that a wrong checkpoint of many gigabytes is refused at once.

    Args:
        unused: names, or patterns such as "loss.*", that ``files`` may have beside those of the model.

    Raises:
        CheckpointError: a file is damaged, or names the first tensors that are missing, unexpected or misshapen.
    """
    try:
        found = read_shapes(files)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    file = files[0]
    is_one_of_many = file.name.startswith(tuple(Path(name).stem for name in layout.FOLDER_WEIGHTS))
    source = f"{file.parent if is_one_of_many else file} does not fit {type(model).__name__}"
    missing = [name for name in expected if name not in found]
    others = [name for name in found if name not in expected]
    unknown = [name for name in others if not any(fnmatchcase(name, pattern) for pattern in unused)]
    has_config = layout.config_file(file) is not None
    hint = "" if has_config else f"; without a {CONFIG_NAME} beside it, it has to be of the published sizes"
    if missing or unknown:
        what = [f"lacks {', '.join(missing[:3])}"] if missing else []
        what += [f"has unknown {', '.join(unknown[:3])}"] if unknown else []
        counts = f"{len(missing)} missing, {len(unknown)} unknown of {len(expected)} tensors"
        raise CheckpointError(f"{source}: it {' and '.join(what)} ({counts}){hint}")
    asks = f"its {CONFIG_NAME} asks for" if has_config else "the published model has"
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(f"{source}: {name} has shape {found[name]}, {asks} {shape}{hint}")


def save_model(model: nn.Module, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically into ``folder`` (made if needed)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    try:
        return load_tensors(files)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


class PretrainedModel(nn.Module):
    """A module that is built from a config object and travels as a checkpoint folder.

    Subclasses set ``config_class``, whose ``from_dict`` / ``to_dict`` read and write ``config.json``, and may add to
    ``unused_tensors``, which checkpoints may have and the model has not.
    """

    config_class: type
    unused_tensors: frozenset[str] = COMPUTED_TENSORS

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **overrides: Any,
    ) -> Self:
        """Load a model in evaluation mode from a folder, a weight file or a hub repository.

        Args:
            dtype: floating-point type of the weights; None keeps the stored one.
            overrides: config fields that replace those of ``config.json``.

        Raises:
            CheckpointError: the folder, its config.json or its weights are missing, damaged or do not fit.
        """
        model, files = cls._fitting(locate(path_or_repo), overrides)
        expected = model.state_dict()
        weights = {name: tensor for name, tensor in _tensors(files).items() if name in expected}
        model.load_state_dict(weights, assign=True)
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)

    @classmethod
    def check_pretrained(cls, path_or_repo: str | os.PathLike[str], **overrides: Any) -> Any:
        """The config of a checkpoint, once it is clear that ``from_pretrained`` can load it; no weights are read.

        Raises:
            CheckpointError: as ``from_pretrained``.
        """
        model, _ = cls._fitting(locate(path_or_repo), overrides)
        return model.config

    @classmethod
    def _fitting(cls, path: Path, overrides: Mapping[str, Any]) -> tuple[Self, list[Path]]:
        """A model without storage, built as ``config.json`` says, and the weight files that fit it."""
        values = {**read_config(path), **overrides}
        try:
            config = cls.config_class.from_dict(values)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{layout.config_file(path) or path} cannot be used: {error}") from error
        # Nothing is initialized only to be overwritten: the weights are assigned to it.
        with torch.device("meta"):
            model = cls(config)
        files = weight_files(path)
        check_fits(model, files, cls.unused_tensors)
        return model, files

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``."""
        save_model(self, folder, self.config.to_dict())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype
