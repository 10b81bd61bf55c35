"""Find every piece of a model: in a folder of its own, in `weights_dir`, in the hub's cache, or still on the hub."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from opensora.environment import command_line
from opensora.errors import WeightsError
from opensora.files import find_path
from opensora.weights import hub
from opensora.weights.layout import CONFIG_NAME, PIECES, check_file, config_file, gaps, weight_files

Config = TypeVar("Config")  # a sampling config, which this package need not know


@dataclass(frozen=True)
class Piece:
    """One piece of the model and where it was found.

    Attributes:
        name: section of the config, one of `PIECES`.
        wanted: its `from_pretrained`: a path, OWNER/REPOSITORY or OWNER/REPOSITORY/FOLDER.
        path: folder or file that holds at least a part of it; None if there is none.
        place: "folder" (named by the config itself), "weights folder" or "hub cache".
        gaps: what `path` lacks.
    """

    name: str
    wanted: str
    path: Path | None = None
    place: str | None = None
    gaps: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all files are there; they may be damaged."""
        return self.path is not None and not self.gaps

    @property
    def repo(self) -> str | None:
        """The hub repository it comes from; None for a folder or file that the config itself names."""
        return hub.split_name(self.wanted)[0] if self.place != "folder" and _is_hub_name(self.wanted) else None

    @property
    def repo_folder(self) -> str:
        """The folder of `repo` that holds it; "" for the top."""
        return "" if self.repo is None else hub.split_name(self.wanted)[1]

    def damage(self) -> list[str]:
        """Return a sentence for each weight file that is not whole; data is not read."""
        sentences = []
        for file in weight_files(self.path) if self.is_complete else []:
            try:
                check_file(file)
            except WeightsError as error:
                sentences.append(str(error))
        return sentences


@dataclass(frozen=True)
class WeightPaths:
    """The folders or files of a run's weights; those in `to_download` are still hub repositories."""

    model: str
    vae: str
    text_encoder: str
    to_download: tuple[str, ...] = ()  # names of pieces
    weights_dir: str | None = None  # where they are downloaded to; None: the hub's cache

    def applied_to(self, config: Config) -> Config:
        """Return `config` with every `from_pretrained` replaced by the folder or file that was found."""
        sections = {
            name: dataclasses.replace(getattr(config, name), from_pretrained=getattr(self, name)) for name in PIECES
        }
        return dataclasses.replace(config, **sections)


def find_piece(name: str, wanted: str, weights_dir: str | os.PathLike[str] | None = None) -> Piece:
    """Look for a piece on this machine; a complete one wins over an incomplete one.

    A relative `wanted` is looked up from the working directory, then from the root of this project, then in
    `weights_dir`; a hub repository is then looked up by its name, in `weights_dir` and in the hub's cache.

    Raises:
        WeightsError: `wanted` is a file that cannot hold the piece.
    """
    given = find_path(wanted)
    if given is not None:
        return Piece(name, wanted, given, "folder", tuple(gaps(given, name)))
    incomplete = Piece(name, wanted)
    for place, path in _candidates(wanted, weights_dir):
        piece = Piece(name, wanted, path, place, tuple(gaps(path, name)))
        if piece.is_complete:
            return piece
        if incomplete.path is None:
            incomplete = piece
    return incomplete


def locate_weights(config: Any) -> WeightPaths:
    """Find every piece of the model, in `config.weights_dir` first, and check that its files are whole.

    A piece that is in neither `weights_dir` nor the hub's cache, but may be a hub repository, is only noted in
    `to_download`.

    Raises:
        WeightsError: pieces are missing, unreachable or damaged; names all of them at once.
    """
    weights_dir = getattr(config, "weights_dir", None)
    found: dict[str, str] = {}
    absent: list[Piece] = []  # possible repositories that are not (completely) here
    nowhere: list[Piece] = []
    problems = [] if weights_dir is None or _is_folder(weights_dir) else [_no_weights_dir(weights_dir)]
    for name in PIECES:
        try:
            piece = find_piece(name, getattr(config, name).from_pretrained, weights_dir)
        except WeightsError as error:
            problems.append(str(error))
            continue
        found[name] = str(piece.path if piece.is_complete else piece.wanted)
        problems += piece.damage()
        if piece.is_complete:
            continue
        if piece.repo is not None:
            absent.append(piece)
        elif piece.path is not None:
            problems.append(f"{name} folder {piece.path} lacks {', '.join(piece.gaps)}")
        else:
            nowhere.append(piece)
    if nowhere:
        problems.append(_not_found(nowhere))
    if absent and not hub.is_reachable():
        problems.append(_unreachable(absent))
    if problems:
        raise WeightsError("; ".join(problems))
    return WeightPaths(**found, to_download=tuple(piece.name for piece in absent), weights_dir=weights_dir)


def local_config(from_pretrained: str, weights_dir: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Return the config.json of a piece on this machine; {} if there is none or it is damaged."""
    given = find_path(from_pretrained)
    paths = [given] if given else [path for _, path in _candidates(from_pretrained, weights_dir)]
    config = next(filter(None, map(config_file, paths)), None)
    try:
        entries = json.loads(config.read_text(encoding="utf-8")) if config else {}
    except (OSError, ValueError):
        return {}  # it is reported when the model is built from it
    return entries if isinstance(entries, dict) else {}


def _candidates(wanted: str, weights_dir: str | os.PathLike[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield the places and paths where `wanted` is: in `weights_dir`, then in the hub's cache, the likeliest first."""
    is_repo = hub.is_repo_name(wanted)
    repo, inside = hub.split_name(wanted) if is_repo else ("", "")
    folder = find_path(weights_dir) if weights_dir is not None else None
    paths = []
    if folder is not None and wanted:
        paths += [("weights folder", folder / wanted)]
        if is_repo:
            tops = [folder / repo.split("/")[-1], *hub.snapshots(folder, repo)]
            paths += [("weights folder", top / inside) for top in tops]
    if is_repo:
        paths += [("hub cache", top / inside) for top in hub.snapshots(hub.cache_folder(), repo)]
    yield from ((place, path) for place, path in paths if path.exists())


def _is_hub_name(wanted: str) -> bool:
    """Whether `wanted` can be on the hub; OWNER/NAME/FOLDER cannot if OWNER/NAME is a folder on this machine."""
    return hub.is_repo_name(wanted) and not (hub.split_name(wanted)[1] and _is_folder(hub.split_name(wanted)[0]))


def _is_folder(path: str | os.PathLike[str]) -> bool:
    found = find_path(path)
    return found is not None and found.is_dir()


def _no_weights_dir(weights_dir: str | os.PathLike[str]) -> str:
    return (
        f"weights_dir '{weights_dir}' is not a folder; correct it, or let '{command_line('weights')} download "
        f"--weights-dir {weights_dir}' make and fill it"
    )


def _not_found(nowhere: list[Piece]) -> str:
    pieces = ", ".join(f"'{piece.wanted}' ({piece.name})" for piece in nowhere)
    return (
        f"no folder or file {pieces}; set from_pretrained to a folder with {CONFIG_NAME} and weights, to a weight "
        "file, or to a hub repository"
    )


def _unreachable(absent: list[Piece]) -> str:
    pieces = ", ".join(f"{piece.name} {piece.wanted} ({_size_and_gaps(piece)})" for piece in absent)
    return (
        f"no local folder or complete cached copy of {pieces}, and {hub.why_unreachable()}; where there is a network, "
        f"run '{command_line('weights')} download --weights-dir DIR', copy DIR here and give --weights-dir DIR, or use "
        "the configs in configs/mini/, which need no download"
    )


def _size_and_gaps(piece: Piece) -> str:
    size = hub.size_text(hub.KNOWN_SIZES.get(piece.wanted))
    return size if piece.path is None else f"{size}; {piece.path} lacks {', '.join(piece.gaps)}"
