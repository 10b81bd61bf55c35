"""What a safetensors file promises, read from its header alone.

The format: eight bytes of little-endian header length, a JSON header with dtype, shape and byte range of every
tensor, then the data. Source: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from opensora.errors import WeightsError

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}


def check_safetensors(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is not safetensors or whose size does not match its header; the data is not read.

    Raises:
        WeightsError: the file is corrupt or truncated.
    """
    _read_header(Path(path))


def read_safetensors_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (dtype as the format writes it, such as "BF16", and shape).

    Raises:
        WeightsError: the file is corrupt or truncated.
    """
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in _read_header(Path(path)).items()}


def _read_header(path: Path) -> dict[str, dict[str, Any]]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MAX_HEADER):
                raise damaged(path, "its header is cut off")
            header = json.loads(file.read(length))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise damaged(path, "its header is not JSON") from error
    tensors = _tensor_entries(header, path)
    expected = _LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size != expected:
        raise damaged(path, f"it has {size} bytes instead of {expected}")
    return tensors


def _tensor_entries(header: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a table of tensors")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in tensors.items():
        try:
            begin, end = entry["data_offsets"]
            bits = math.prod(entry["shape"]) * _BITS.get(entry["dtype"], 0)
            valid = 0 <= begin <= end and (entry["dtype"] not in _BITS or bits == 8 * (end - begin))
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise damaged(path, f"the entry of tensor '{name}' contradicts itself")
    return tensors


def damaged(path: Path, detail: str) -> WeightsError:
    """The error of a weight file that is not whole."""
    return WeightsError(f"{path} is corrupt or truncated ({detail}); download or copy it again")
