"""The files that make up a piece of the model, in every layout that can be read, and whether they are whole.

- Hugging Face: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, single or sharded;
  diffusers calls them `diffusion_pytorch_model`. A text encoder's tokenizer may be in the folder `tokenizer` beside
  its own, as in the repositories of diffusers' pipelines.
- A single weight file, `.safetensors`, `.pt`, `.pth` or `.bin`.
- A training checkpoint of Open-Sora 1.x: a folder with `model/` (shards as ColossalAI writes them) and `ema.pt`.
The last two need no `config.json`; without one, they are taken to hold a model of the published sizes.
Source: Open-Sora v1.2, `opensora/utils/ckpt_utils.py`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from opensora.errors import WeightsError, one_line

CONFIG_NAME = "config.json"
# Section of a config that has weights -> the name that users know it by.
PIECES = {"model": "transformer", "vae": "autoencoder", "text_encoder": "text encoder"}
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

INDEX_SUFFIX = ".index.json"
# In the order of preference: safetensors hold no code and are read faster.
FOLDER_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
_ZIP_START = b"PK"  # start of files by torch.save; versions before 1.6 wrote plain pickles
_PROBES = 64  # places in a file that a fingerprint reads
_PROBE_BYTES = 16_384
_TOKENIZERS = ("tokenizer.json", "spiece.model")
_TOKENIZER_FOLDER = "tokenizer"
# A training checkpoint.
_SHARDS_FOLDER, _EMA_FILE, _STATES_FILE = "model", "ema.pt", "running_states.json"


def weight_files(path: Path) -> list[Path]:
    """Return the weight files that a loader reads: `path` itself, or those of the folder's first kind.

    Shards are returned even if they do not exist.

    Raises:
        WeightsError: the list of shards cannot be read.
    """
    if path.is_file():
        return [path]
    for name in FOLDER_WEIGHTS:
        file = path / name
        if file.is_file():
            return _shards(file) if name.endswith(INDEX_SUFFIX) else [file]
    if (path / _SHARDS_FOLDER).is_dir() and (files := weight_files(path / _SHARDS_FOLDER)):
        return files
    return [path / _EMA_FILE] if (path / _EMA_FILE).is_file() else []


def fingerprint(folder: str | Path) -> str:
    """Return a short hash of a model's weights, made of probes all over the files, so that large files take no time.

    Raises:
        WeightsError: there are no weights, or the list of weight files cannot be read.
        OSError: a file cannot be read.
    """
    files = weight_files(Path(folder))
    if not files:
        raise WeightsError(f"{folder} holds no weights, so its model cannot be identified")
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for i in range(_PROBES):
                file.seek(max(0, size - _PROBE_BYTES) * i // (_PROBES - 1))
                digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()[:16]


def config_file(path: Path) -> Path | None:
    """Return the `config.json` of a folder, of a file's folder, or of the checkpoint whose `model` folder this is."""
    folders = [path.parent] if path.is_file() else [path]
    if path.name == _SHARDS_FOLDER and (path.parent / _STATES_FILE).is_file():
        folders.append(path.parent)
    return next((folder / CONFIG_NAME for folder in folders if (folder / CONFIG_NAME).is_file()), None)


def may_lack_config(path: Path) -> bool:
    """Whether `path` is a file or a training checkpoint, which may come without `config.json`."""
    if path.is_file():
        return True
    if path.name == _SHARDS_FOLDER and (path.parent / _STATES_FILE).is_file():
        return True
    is_folder_of_weights = any((path / name).is_file() for name in FOLDER_WEIGHTS)
    return not is_folder_of_weights and bool(weight_files(path))


def tokenizer_folder(path: Path) -> Path | None:
    """Return the folder of a text encoder's tokenizer: its own, or `tokenizer` beside it; None if neither has one."""
    folders = (path, path.parent / _TOKENIZER_FOLDER)
    return next((folder for folder in folders if any((folder / name).is_file() for name in _TOKENIZERS)), None)


def gaps(path: Path, piece: str) -> list[str]:
    """Name what `path` lacks to hold a piece, one of `PIECES`.

    Raises:
        WeightsError: `path` is a file that cannot hold the piece.
    """
    if path.is_file():
        _check_file_name(path, piece)
        return []
    try:
        files = weight_files(path)
    except WeightsError:
        return [f"a readable {' or '.join(name for name in FOLDER_WEIGHTS if (path / name).is_file())}"]
    missing = []
    if config_file(path) is None and not may_lack_config(path):
        missing.append(CONFIG_NAME)
    if piece == "text_encoder":
        files = [file for file in files if file.parent == path and file.name != _EMA_FILE]
    if not files:
        missing.append(" or ".join(_single_names(piece)))
    if piece == "text_encoder" and tokenizer_folder(path) is None:
        missing.append(" or ".join(_TOKENIZERS))
    return missing + [file.name for file in files if not file.is_file()]


def needed_files(names: Sequence[str], piece: str, folder: str = "") -> list[str]:
    """Return the files of a hub repository that make up a piece: small ones, and weights of the first kind there.

    Args:
        names: paths of all files of the repository.
        folder: folder of the repository that holds the piece; "" for the top.
    """
    top = _in_folder(names, folder)
    needed = _small_files(top, piece) + _weights(top)
    if folder:
        if piece == "text_encoder" and not any(name in top for name in _TOKENIZERS):
            tokenizer = _small_files(_in_folder(names, _TOKENIZER_FOLDER), piece)
            return [f"{folder}/{name}" for name in needed] + [f"{_TOKENIZER_FOLDER}/{name}" for name in tokenizer]
        return [f"{folder}/{name}" for name in needed]
    return needed


def piece_files(path: Path, piece: str) -> list[Path]:
    """Return the files of a piece in a folder (`needed_files`), including those of a tokenizer beside it."""
    files = [path / name for name in needed_files([file.name for file in path.iterdir()], piece)]
    for folder in _folders(path, piece)[1:]:
        files += [folder / name for name in _small_files([file.name for file in folder.iterdir()], piece)]
    return files


def small_files(path: Path, piece: str) -> list[Path]:
    """Return configs, lists of weights and tokenizers in a piece's folder, and in that of a tokenizer beside it."""
    files = [file for folder in _folders(path, piece) for file in sorted(folder.iterdir())]
    return [file for file in files if file.suffix == ".json" or file.name == "spiece.model"]


def _folders(path: Path, piece: str) -> list[Path]:
    tokenizer = tokenizer_folder(path) if piece == "text_encoder" else None
    return [path] if tokenizer in (None, path) else [path, tokenizer]


def _single_names(piece: str) -> list[str]:
    """Return the names that weights in one file may have; for a text encoder, transformers reads no others."""
    names = [name for name in FOLDER_WEIGHTS if not name.endswith(INDEX_SUFFIX)]
    return names[:2] if piece == "text_encoder" else names


def _in_folder(names: Sequence[str], folder: str) -> list[str]:
    """Return the names of the files directly in one folder of a repository, relative to it."""
    prefix = f"{folder}/" if folder else ""
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [name for name in inside if "/" not in name]


def _small_files(top: Sequence[str], piece: str) -> list[str]:
    needed = [name for name in top if name.endswith(".json") and not name.endswith(INDEX_SUFFIX)]
    if piece == "text_encoder":
        needed += [name for name in top if name == "spiece.model"]
    return needed


def _weights(top: Sequence[str]) -> list[str]:
    for name in FOLDER_WEIGHTS:
        if name not in top:
            continue
        if not name.endswith(INDEX_SUFFIX):
            return [name]
        stem, suffix = Path(name.removesuffix(INDEX_SUFFIX)).stem, Path(name.removesuffix(INDEX_SUFFIX)).suffix
        shards = [other for other in top if other.endswith(suffix)]
        # Other precisions may lie beside them. If no shard has the usual name, all are taken.
        return [name, *([shard for shard in shards if fnmatch(shard, f"{stem}-*{suffix}")] or shards)]
    return []


def describe_format(path: Path) -> str:
    """Name the format of a complete piece, as in "safetensors, 2 files"."""
    files = weight_files(path)
    suffix = files[0].suffix
    kind = "safetensors" if suffix == ".safetensors" else f"torch ({suffix})"
    if not path.is_file() and may_lack_config(path):
        kind += ", training checkpoint"
    return kind if len(files) == 1 else f"{kind}, {len(files)} files"


def check_file(path: Path) -> None:
    """Refuse a weight file that is truncated, as far as can be told without torch and without reading its data.

    Raises:
        WeightsError: the file is damaged or cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np"):  # compares the file's size with its header
                return
        with path.open("rb") as file:
            start = file.read(len(_ZIP_START))
        # The table of contents is at the end of the file.
        if not start or (start == _ZIP_START and not zipfile.is_zipfile(path)):
            raise damaged(path, "its end is missing" if start else "it is empty")
    except SafetensorError as error:
        raise damaged(path, one_line(error)) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error


def damaged(path: Path, detail: str) -> WeightsError:
    """Return the error about a weight file that is not whole."""
    return WeightsError(f"{path} is corrupt or truncated ({detail}); download or copy it again")


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [index.parent / name for name in sorted(names)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is not a readable list of weight files; download it again") from error


def _check_file_name(path: Path, piece: str) -> None:
    if piece == "text_encoder":
        raise WeightsError(
            f"text_encoder.from_pretrained='{path}' is a file; give the folder that holds it with {CONFIG_NAME} and "
            f"{' or '.join(_TOKENIZERS)}"
        )
    if path.suffix not in FILE_SUFFIXES:
        raise WeightsError(
            f"{piece}.from_pretrained='{path}' is not a weight file ({', '.join(FILE_SUFFIXES)}); give one, or the "
            f"folder that holds {CONFIG_NAME} and weights"
        )
