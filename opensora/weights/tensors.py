"""Weight files of either format: safetensors, and what ``torch.save`` wrote.

A torch file is a pickle. It is read without running code, and its tensors are mapped instead of read when it is in
the format that PyTorch has written since version 1.6.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opensora.errors import WeightsError, one_line
from opensora.weights.safetensors_header import check_safetensors, damaged, read_safetensors_shapes

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

_ZIP_START = b"PK"
# Training scripts put the weights under one of these names; averaged ones are what is meant to be sampled with.
_WRAPPERS = ("ema", "state_dict", "model")
_PARALLEL_PREFIX = "module."  # torch's DistributedDataParallel adds it


def check_file(path: Path) -> None:
    """Refuse a file that is cut off, as far as that can be told without reading its data and without torch.

    Raises:
        WeightsError: the file is damaged or cannot be read.
    """
    if path.suffix == ".safetensors":
        check_safetensors(path)
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP_START))
        # The table of contents is at the end of the file.
        if not start or (start == _ZIP_START and not zipfile.is_zipfile(path)):
            raise damaged(path, "its end is missing" if start else "it is empty")
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error


def read_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, over all ``files``; no data is read but of torch files in the old format.

    Raises:
        WeightsError: a file is damaged, or holds other things than tensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            shapes.update({name: shape for name, (_, shape) in read_safetensors_shapes(file).items()})
        else:
            shapes.update({name: tuple(tensor.shape) for name, tensor in _read_torch_file(file).items()})
    return _without_prefix(shapes)


def load_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of ``files`` by name, on the CPU.

    Raises:
        WeightsError: as ``read_shapes``.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors.update(load_file(file) if file.suffix == ".safetensors" else _read_torch_file(file))
    return _without_prefix(tensors)


def _without_prefix(entries: dict[str, Value]) -> dict[str, Value]:
    if not all(name.startswith(_PARALLEL_PREFIX) for name in entries):
        return entries
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in entries.items()}


def _read_torch_file(path: Path) -> dict[str, Tensor]:
    import torch

    check_file(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            raise damaged(path, "it is not a file of tensors") from error
        raise WeightsError(
            f"{path} holds code ({code[1]}) besides tensors and is not opened; where you trust it, save its tensors "
            "alone with safetensors.torch.save_file"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # bytes that are no pickle make its reader stumble in any way
        raise damaged(path, one_line(error).split(". ")[0][:200]) from error
    return _unwrapped(contents, path)


def _unwrapped(contents: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what a training script saved."""
    from torch import Tensor

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
            f"{path} holds no table of tensors, neither plain nor under {', '.join(_WRAPPERS)}; give a file of weights"
        )
    return tensors
