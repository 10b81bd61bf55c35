"""Finding model weights and proving them complete before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from opensora.config.schema import SampleConfig
from opensora.utils import hub
from opensora.utils.errors import WeightsError, one_line
from opensora.utils.files import find_path
from opensora.utils.safetensors_header import check_safetensors

logger = logging.getLogger(__name__)

_CONFIG_NAME = "config.json"
_XL_2_DEPTH = 28
_REPO_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")

# What the folder of each piece must hold: any one name of each group.
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_TORCH_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_REQUIRED = {
    "model": ((_CONFIG_NAME,), _SAFETENSORS),
    "vae": ((_CONFIG_NAME,), _SAFETENSORS),
    "text_encoder": ((_CONFIG_NAME,), _SAFETENSORS + _TORCH_FILES, ("tokenizer.json", "spiece.model")),
}
_DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.bin", "spiece.model"]

# Download sizes of the published repositories.
_SIZES = {
    "hpcai-tech/OpenSora-STDiT-v3": "4.8 GB",
    "hpcai-tech/OpenSora-VAE-v1.2": "1.6 GB",
    "DeepFloyd/t5-v1_1-xxl": "19 GB",
}


@dataclass(frozen=True)
class WeightPaths:
    """The folders of a run's weights; those in ``to_download`` are still hub repositories."""

    model: str
    vae: str
    text_encoder: str
    to_download: tuple[str, ...] = ()  # names of the pieces

    def applied_to(self, config: SampleConfig) -> SampleConfig:
        """``config`` with every ``from_pretrained`` replaced by the folder found here."""
        sections = {
            name: dataclasses.replace(getattr(config, name), from_pretrained=getattr(self, name)) for name in _REQUIRED
        }
        return dataclasses.replace(config, **sections)

    def downloaded(self) -> WeightPaths:
        """Fetch what is not on this machine yet, with the hub's progress bars.

        Raises:
            WeightsError: a download failed or is incomplete.
        """
        folders = {name: _download(getattr(self, name), name) for name in self.to_download}
        return dataclasses.replace(self, **folders, to_download=())


def locate_weights(config: SampleConfig) -> WeightPaths:
    """Find every piece of the model locally or in the hub's cache, and check that its files are whole.

    A relative ``from_pretrained`` is looked up from the working directory, then from the repository's root; what
    is no folder is a hub repository. Nothing is downloaded here.

    Raises:
        WeightsError: names all pieces that are missing, unreachable or damaged at once.
    """
    found: dict[str, str] = {}
    absent: dict[str, str] = {}  # possible repositories that are not cached
    nowhere: dict[str, str] = {}
    problems: list[str] = []
    for name in _REQUIRED:
        wanted = getattr(config, name).from_pretrained
        if find_path(wanted) is None and not _REPO_NAME.fullmatch(wanted):
            nowhere[name] = wanted
            continue
        try:
            folder = _find_folder(wanted, name)
        except WeightsError as error:
            problems.append(str(error))
            continue
        found[name] = str(folder or wanted)
        if folder is None:
            absent[name] = wanted
    if nowhere:
        problems.append(_not_found(nowhere))
    if absent and not hub.is_reachable():
        problems.append(_unreachable(absent))
    if problems:
        raise WeightsError("; ".join(problems))
    return WeightPaths(**found, to_download=tuple(absent))


def model_depth(from_pretrained: str, model_type: str) -> int | None:
    """Number of spatial-temporal block pairs, if it is known without downloading or loading the model."""
    default = _XL_2_DEPTH if model_type == "STDiT3-XL/2" else None
    folder = find_path(from_pretrained)
    config_file = folder / _CONFIG_NAME if folder else None
    if config_file is None and default is None:
        cached = hub.cached_file(from_pretrained, _CONFIG_NAME)
        config_file = Path(cached) if cached else None
    try:
        depth = json.loads(config_file.read_text(encoding="utf-8")).get("depth") if config_file else None
    except (OSError, ValueError, AttributeError):
        depth = None  # a damaged config.json is reported when the model is built from it
    return depth if isinstance(depth, int) else default


def _find_folder(wanted: str, name: str) -> Path | None:
    """The checked folder of one piece, or None for a hub repository that is not (completely) in the cache.

    Raises:
        WeightsError: an incomplete or damaged folder.
    """
    folder = find_path(wanted)
    if folder is None:
        cached = hub.cached_file(wanted, _CONFIG_NAME)
        # An interrupted download leaves gaps; the hub client fills them.
        if cached is None or _gaps(Path(cached).parent, name):
            return None
        folder = Path(cached).parent
    elif not folder.is_dir():
        raise WeightsError(f"{name}.from_pretrained='{wanted}' is a file; give the folder that holds {_CONFIG_NAME}")
    gaps = _gaps(folder, name)
    if gaps:
        raise WeightsError(f"{name} folder {folder} lacks {', '.join(gaps)}")
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            check_safetensors(file)
    return folder


def _gaps(folder: Path, name: str) -> list[str]:
    """What ``folder`` lacks to hold the piece ``name``."""
    gaps = [" or ".join(group) for group in _REQUIRED[name] if not any((folder / file).is_file() for file in group)]
    return gaps + [file.name for file in weight_files(folder) if not file.is_file()]


def weight_files(folder: Path) -> list[Path]:
    """The weight files a loader reads: the first kind present, all shards of an index."""
    for name in _SAFETENSORS + _TORCH_FILES:
        file = folder / name
        if file.is_file():
            return _shards(file) if name.endswith(".index.json") else [file]
    return []


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is not a readable list of weight files; download it again") from error
    return [index.parent / name for name in sorted(names)]


def _download(repo: str, name: str) -> str:
    from huggingface_hub import snapshot_download

    logger.info("downloading %s (%s)", repo, _size(repo))
    try:
        snapshot_download(repo, allow_patterns=_DOWNLOAD_PATTERNS)
    except Exception as error:  # the hub client's own errors and its transport's have no common base
        raise WeightsError(
            f"downloading {name} {repo} ({_size(repo)}) failed ({one_line(error)}); run the command again to go on, or "
            f"'hf download {repo} --local-dir DIR' where there is a network and set {name}.from_pretrained to DIR; "
            "configs/mini/ needs no download"
        ) from error
    folder = _find_folder(repo, name)
    if folder is None:
        raise WeightsError(f"{repo} is not a repository of {name} weights: it lacks files that are needed")
    return str(folder)


def _size(repo: str) -> str:
    return _SIZES.get(repo, "size unknown")


def _not_found(nowhere: dict[str, str]) -> str:
    pieces = ", ".join(f"'{wanted}' ({name})" for name, wanted in nowhere.items())
    return (
        f"no folder {pieces}; set from_pretrained to a folder with {_CONFIG_NAME} and weights, or to a hub repository"
    )


def _unreachable(absent: dict[str, str]) -> str:
    pieces = ", ".join(f"{name} {repo} ({_size(repo)})" for name, repo in absent.items())
    reason = "HF_HUB_OFFLINE forbids downloads" if hub.is_offline() else "the Hugging Face hub cannot be reached"
    return (
        f"no local folder or cached copy of {pieces}, and {reason}; where there is a network, run "
        f"'hf download {next(iter(absent.values()))} --local-dir DIR'{' and so on' if len(absent) > 1 else ''}, "
        "copy DIR here and set from_pretrained to it, or use the configs in configs/mini/, which need no download"
    )
