"""Loading and saving models in the Hugging Face layout: a folder with ``config.json`` and safetensors weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adacache.atomic import atomic_path
from opensora.utils.errors import WeightsError
from opensora.utils.safetensors_header import read_safetensors_shapes

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or does not fit the model it is loaded into."""


def locate(path_or_repo: str | os.PathLike[str]) -> Path:
    """Folder that holds the checkpoint: a local one as it is, otherwise the cached snapshot of a hub repository.

    Raises:
        CheckpointError: neither a folder nor a repository that can be fetched.
    """
    folder = Path(path_or_repo)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(path_or_repo), allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the hub client's own errors and its transport's have no common base
        raise CheckpointError(
            f"'{path_or_repo}' is neither a folder nor a repository the hub could deliver ({type(error).__name__})"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The model's ``config.json`` as a dict.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    path = folder / CONFIG_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no {CONFIG_NAME}; a checkpoint folder needs one") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def weight_files(folder: Path) -> list[Path]:
    """All safetensors files of a checkpoint, single or sharded.

    Raises:
        CheckpointError: no weights, or a shard that the index names is missing.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not a readable list of weight files; download it again") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}")
        return [folder / name for name in names]
    raise CheckpointError(f"{folder} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}")


def check_fits(model: nn.Module, files: Sequence[Path]) -> None:
    """Compare names and shapes in the headers of ``files`` with ``model``, which may live on the meta device.

    Only headers are read, so that a wrong checkpoint of many gigabytes is refused at once.

    Raises:
        CheckpointError: a file is damaged, or names the first tensors that are missing, unexpected or misshapen.
    """
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            found.update({name: shape for name, (_, shape) in read_safetensors_shapes(file).items()})
        except WeightsError as error:
            raise CheckpointError(str(error)) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    source = f"{files[0].parent} does not fit {type(model).__name__}"
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        what = [f"lacks {', '.join(missing[:3])}"] if missing else []
        what += [f"has unknown {', '.join(unknown[:3])}"] if unknown else []
        counts = f"{len(missing)} missing, {len(unknown)} unknown of {len(expected)} tensors"
        raise CheckpointError(f"{source}: it {' and '.join(what)} ({counts})")
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(f"{source}: {name} has shape {found[name]}, its config.json asks for {shape}")


def save_model(model: nn.Module, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically into ``folder`` (made if needed)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class PretrainedModel(nn.Module):
    """A module that is built from a config object and travels as a checkpoint folder.

    Subclasses set ``config_class``, whose ``from_dict`` / ``to_dict`` read and write ``config.json``.
    """

    config_class: type

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
        """Load a model in evaluation mode from a folder or a hub repository.

        Args:
            dtype: floating-point type of the weights; None keeps the stored one.
            overrides: config fields that replace those of ``config.json``.

        Raises:
            CheckpointError: the folder, its config.json or its weights are missing, damaged or do not fit.
        """
        folder = locate(path_or_repo)
        model, files = cls._fitting(folder, overrides)
        weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
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
    def _fitting(cls, folder: Path, overrides: Mapping[str, Any]) -> tuple[Self, list[Path]]:
        """A model without storage, built as ``config.json`` says, and the weight files that fit it."""
        try:
            config = cls.config_class.from_dict({**read_config(folder), **overrides})
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / CONFIG_NAME} cannot be used: {error}") from error
        # Nothing is initialized only to be overwritten: the weights are assigned to it.
        with torch.device("meta"):
            model = cls(config)
        files = weight_files(folder)
        check_fits(model, files)
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
