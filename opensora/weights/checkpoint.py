"""Loading and saving models: config and weights in any layout of `opensora.weights.layout`.

Models are saved in the Hugging Face layout, a folder with `config.json` and `model.safetensors`. Torch files are
pickles: they are loaded without running code, and memory-mapped if they have the format that PyTorch has written since
version 1.6.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from diffusers.models.modeling_utils import no_init_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adacache.atomic import atomic_path
from opensora.errors import WeightsError, one_line
from opensora.files import find_path
from opensora.weights import layout
from opensora.weights.download import download
from opensora.weights.layout import CONFIG_NAME, check_file, damaged
from opensora.weights.locate import Piece, find_piece

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

WEIGHTS_NAME = "model.safetensors"

# Constants that some versions of the training code saved among the weights; here they are computed.
# Source: Open-Sora, PositionEmbedding2D; the package rotary_embedding_torch.
COMPUTED_TENSORS = frozenset({"pos_embed.inv_freq", "rope.dummy", "rope.cached_freqs"})
# Training scripts put the weights under one of these names; the averaged ones (ema) are meant for sampling.
_WRAPPERS = ("ema", "state_dict", "model")
_PARALLEL_PREFIX = "module."  # torch's DistributedDataParallel adds it


def locate(path_or_repo: str | os.PathLike[str]) -> Path:
    """Return the folder or file that holds a checkpoint: the local path, or the snapshot of a hub repository.

    Raises:
        WeightsError: there is nothing on this machine, and no repository that can be fetched.
    """
    wanted = os.fspath(path_or_repo)
    if (given := find_path(wanted)) is not None:
        return given
    piece = find_piece("model", wanted)
    if piece.is_complete:
        return piece.path
    if piece.repo is None:
        raise WeightsError(f"'{wanted}' is neither a folder, a weight file nor the name of a hub repository")
    return download([Piece("model", wanted)])["model"]


def read_config(path: Path) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint.

    A weight file or training checkpoint may have none: the dict is then empty, which stands for the published sizes.

    Raises:
        WeightsError: the file is missing, or not a JSON object.
    """
    file = layout.config_file(path)
    if file is None and layout.may_lack_config(path):
        return {}
    if file is None:
        raise WeightsError(f"{path} holds no {CONFIG_NAME}; a checkpoint folder needs one")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{file} is not a JSON object")
    return entries


def check_fits(model: nn.Module, path: Path, unused: frozenset[str] = COMPUTED_TENSORS) -> list[Path]:
    """Check that the tensors of a checkpoint have the names and shapes of `model`'s, and return its weight files.

    Only headers are read, so that a wrong checkpoint of many gigabytes is refused at once.

    Args:
        model: may be on the meta device.
        path: the checkpoint, single or sharded.
        unused: names, or patterns such as "loss.*", of tensors that it may have beside those of the model.

    Raises:
        WeightsError: files are missing or damaged, or tensors are missing, unknown or misshapen (the first are named).
    """
    files = layout.weight_files(path)
    if not files:
        raise WeightsError(f"{path} holds no weights: {' or '.join(layout.gaps(path, 'model'))}")
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise WeightsError(f"{path} lacks {len(absent)} of {len(files)} weight files: {', '.join(absent)}")
    found = read_shapes(files)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    source = f"{path} does not fit {type(model).__name__}"
    missing = [name for name in expected if name not in found]
    others = [name for name in found if name not in expected]
    unknown = [name for name in others if not any(fnmatchcase(name, pattern) for pattern in unused)]
    has_config = layout.config_file(path) is not None
    hint = "" if has_config else f"; without a {CONFIG_NAME} beside it, it must have the published sizes"
    if missing or unknown:
        what = [f"lacks {', '.join(missing[:3])}"] if missing else []
        what += [f"has unknown {', '.join(unknown[:3])}"] if unknown else []
        counts = f"{len(missing)} missing, {len(unknown)} unknown of {len(expected)} tensors"
        raise WeightsError(f"{source}: it {' and '.join(what)} ({counts}){hint}")
    asks = f"its {CONFIG_NAME} asks for" if has_config else "the published model has"
    for name, shape in expected.items():
        if found[name] != shape:
            raise WeightsError(f"{source}: {name} has shape {found[name]}, {asks} {shape}{hint}")
    return files


def read_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Return tensor name -> shape over all `files`; data is read only from torch files in the old format.

    Raises:
        WeightsError: a file is damaged, or holds other things than tensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            check_file(file)
            with safe_open(file, framework="np") as tensors:
                shapes.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
        else:
            shapes.update({name: tuple(tensor.shape) for name, tensor in _read_torch_file(file).items()})
    return _without_prefix(shapes)


def load_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Load all tensors of `files` by name, on the CPU.

    Raises:
        WeightsError: as `read_shapes`.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(load_file(file) if file.suffix == ".safetensors" else _read_torch_file(file))
    return _without_prefix(tensors)


def save_model(model: nn.Module, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Write `config.json` and `model.safetensors` atomically into `folder` (made if needed)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    with atomic_path(folder / CONFIG_NAME) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def only_shapes() -> Iterator[None]:
    """Build models on the meta device: there is no data, and nothing is initialized, which takes most of the time."""
    with torch.device("meta"), no_init_weights():
        yield


class PretrainedModel(nn.Module):
    """A module that is built from a config object, and saved to and loaded from a checkpoint folder.

    Subclasses set `config_class`, whose `from_dict` / `to_dict` read and write `config.json`, and may add to
    `unused_tensors`, which checkpoints may have although the model does not. Wrappers of another library's model
    override `core`.
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
            overrides: config fields that replace those of `config.json`.

        Raises:
            WeightsError: the folder, its config.json or its weights are missing, damaged or do not fit.
        """
        model, files = cls._fitting(locate(path_or_repo), overrides)
        expected = model.core.state_dict()
        weights = {name: tensor for name, tensor in load_tensors(files).items() if name in expected}
        model.core.load_state_dict(weights, assign=True)
        model.make_tables()
        return model.to(device=device, dtype=dtype).eval().requires_grad_(False)

    @classmethod
    def check_pretrained(cls, path_or_repo: str | os.PathLike[str], **overrides: Any) -> Any:
        """Check that `from_pretrained` can load a checkpoint, without reading weights, and return its config.

        Raises:
            WeightsError: as `from_pretrained`.
        """
        model, _ = cls._fitting(locate(path_or_repo), overrides)
        return model.config

    @classmethod
    def _fitting(cls, path: Path, overrides: Mapping[str, Any]) -> tuple[Self, list[Path]]:
        """Return a model on the meta device, built as `config.json` says, and the weight files that fit it."""
        values = {**read_config(path), **overrides}
        try:
            with only_shapes():  # the weights are assigned later
                model = cls.from_config(values)
        except Exception as error:  # whatever a constructor makes of sizes that are none
            raise WeightsError(f"{layout.config_file(path) or path} cannot be used: {one_line(error)}") from error
        return model, check_fits(model.core, path, cls.unused_tensors)

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Self:
        """Build a model as the entries of a `config.json` say, with newly initialized weights.

        Raises:
            TypeError, ValueError: this model cannot be what an entry asks for.
        """
        return cls(cls.config_class.from_dict(values))

    @property
    def core(self) -> nn.Module:
        """The module whose tensors a checkpoint holds."""
        return self

    def make_tables(self) -> None:
        """Compute the tensors that no checkpoint holds, which a model from the meta device lacks."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` into `folder`."""
        save_model(self, folder, self.config.to_dict())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype


def _without_prefix(entries: dict[str, Value]) -> dict[str, Value]:
    if not all(name.startswith(_PARALLEL_PREFIX) for name in entries):
        return entries
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in entries.items()}


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    check_file(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise damaged(path, "it is not a file of tensors") from error
        raise WeightsError(
            f"{path} holds code ({code[1]}) besides tensors and is not opened; if you trust it, save only its tensors "
            "with safetensors.torch.save_file"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes that are not a pickle make its reader fail in any way
        raise damaged(path, one_line(error).split(". ")[0][:200]) from error
    return _unwrapped(contents, path)


def _unwrapped(contents: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors among what a training script saved."""
    while isinstance(contents, Mapping):
        wrappers = [name for name in _WRAPPERS if isinstance(contents.get(name), Mapping)]
        if not wrappers:
            break
        if len(wrappers) > 1:
            logger.info("%s holds %s; '%s' is used", path, " and ".join(wrappers), wrappers[0])
        contents = contents[wrappers[0]]
    tensors = {}
    if isinstance(contents, Mapping):
        tensors = {str(name): tensor for name, tensor in contents.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise WeightsError(
            f"{path} holds no table of tensors, neither at the top nor under {', '.join(_WRAPPERS)}; give a file of "
            "weights"
        )
    return tensors
