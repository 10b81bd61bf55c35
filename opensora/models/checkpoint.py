"""Loading and saving models in the Hugging Face layout: a folder with ``config.json`` and safetensors weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

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
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(path_or_repo), allow_patterns=["*.json", "*.safetensors"]))
    except (HFValidationError, OSError) as error:
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
    index = folder / INDEX_NAME
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}"
            )
        return [folder / name for name in names]
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    raise CheckpointError(f"{folder} holds neither {WEIGHTS_NAME} nor {INDEX_NAME}")


def read_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder, on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated or not in safetensors format.
    """
    state_dict: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        try:
            state_dict.update(load_file(path))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is corrupt or truncated ({error}); download it again") from error
    return state_dict


def load_into(model: nn.Module, state_dict: Mapping[str, torch.Tensor], source: str) -> None:
    """Assign ``state_dict`` to ``model`` (which may live on the meta device); keys and shapes must match exactly.

    Raises:
        CheckpointError: names the first tensors that are missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    if missing or unexpected:
        what = [f"lacks {', '.join(missing[:3])}"] if missing else []
        what += [f"has unknown {', '.join(unexpected[:3])}"] if unexpected else []
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}: it {' and '.join(what)} "
            f"({len(missing)} missing, {len(unexpected)} unknown of {len(expected)} tensors)"
        )
    for name, tensor in expected.items():
        if tensor.shape != state_dict[name].shape:
            raise CheckpointError(
                f"{source} does not fit {type(model).__name__}: {name} has shape {tuple(state_dict[name].shape)}, "
                f"its config.json asks for {tuple(tensor.shape)}"
            )
    model.load_state_dict(state_dict, assign=True)


def save_model(model: nn.Module, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Write ``config.json`` and ``model.safetensors`` atomically into ``folder`` (made if needed)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS_NAME}.partial"
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, partial
    )
    os.replace(partial, folder / WEIGHTS_NAME)
    partial = folder / f".{CONFIG_NAME}.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / CONFIG_NAME)


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
            CheckpointError: see ``locate``, ``read_config``, ``read_state_dict`` and ``load_into``.
        """
        folder = locate(path_or_repo)
        config = cls.config_class.from_dict({**read_config(folder), **overrides})
        # Nothing is initialized only to be overwritten: the weights are assigned to a model without storage.
        with torch.device("meta"):
            model = cls(config)
        load_into(model, read_state_dict(folder), str(path_or_repo))
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)

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
