"""Fetching pieces of a model from the hub; ``huggingface_hub`` moves the bytes.

Finished files are kept when a download is interrupted, and what is whole is not fetched again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opensora.errors import WeightsError
from opensora.files import find_path
from opensora.weights import hub
from opensora.weights.layout import FILE_SUFFIXES, INDEX_SUFFIX, PIECES, needed_files
from opensora.weights.locate import Piece, find_piece

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transfer:
    """What has to be fetched of one repository.

    Attributes:
        folder: where the repository's files go; None for the hub's cache.
        files: all files of the piece.
        missing: those of them that are not there in their full size.
        damaged: those of ``missing`` that are there all the same.
    """

    piece: Piece
    folder: Path | None
    files: tuple[hub.RepoFile, ...]
    missing: tuple[hub.RepoFile, ...]
    damaged: tuple[hub.RepoFile, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(file.size for file in self.missing)

    def __str__(self) -> str:
        where = "the hub's cache" if self.folder is None else self.folder / self.piece.repo_folder
        rest = "" if len(self.missing) == len(self.files) else ", the rest is there"
        return f"{PIECES[self.piece.name]} {self.piece.wanted}: {hub.size_text(self.size)} to {where}{rest}"


def download(pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Fetch ``pieces`` and return their folders by the pieces' names.

    Raises:
        WeightsError: the disk has no room for them; or names all that could not be fetched.
    """
    transfers = plan(pieces, weights_dir)
    check_space(sum(transfer.size for transfer in transfers), weights_dir)
    folders, problems = fetch(transfers, weights_dir)
    if problems:
        raise WeightsError("; ".join(problems))
    return folders


def plan(pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None = None) -> list[Transfer]:
    """What ``download`` would do, by the hub's own list of files.

    Raises:
        WeightsError: downloads are forbidden or the hub cannot be reached; or names all repositories that do not exist
            or hold no such piece.
    """
    if not pieces:
        return []
    if not hub.is_reachable():
        wanted = ", ".join(f"{piece.wanted} ({hub.size_text(hub.KNOWN_SIZES.get(piece.wanted))})" for piece in pieces)
        raise WeightsError(f"{hub.why_unreachable()}, but {wanted} would have to be downloaded")
    transfers, problems = [], []
    for piece in pieces:
        try:
            transfers.append(_plan_one(piece, target_folder(piece, pieces, weights_dir)))
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        raise WeightsError("; ".join(problems))
    return transfers


def check_space(needed: int, weights_dir: str | os.PathLike[str] | None = None) -> None:
    """Refuse ``needed`` bytes that the disk has no room for.

    Raises:
        WeightsError: names the sizes and how to choose another disk.
    """
    folder = root_folder(weights_dir)
    free = free_space(folder)
    if needed > free:
        raise WeightsError(
            f"{hub.size_text(needed)} are needed in {folder}, where {hub.size_text(free)} are free; make "
            "room, or choose a folder on another disk with --weights-dir"
        )


def free_space(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def fetch(
    transfers: Sequence[Transfer], weights_dir: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Path], list[str]]:
    """Run all transfers, also after one of them failed: the folders by piece, and what went wrong in sentences."""
    folders: dict[str, Path] = {}
    problems: list[str] = []
    for transfer in transfers:
        logger.info("downloading %s", transfer)
        try:
            folders[transfer.piece.name] = _fetch_one(transfer, weights_dir)
        except WeightsError as error:
            problems.append(str(error))
    return folders, problems


def _plan_one(piece: Piece, folder: Path | None) -> Transfer:
    """What to fetch of a piece into its ``folder``."""
    top = folder.parent if folder is not None and piece.repo_folder else folder
    listed = {file.name: file for file in hub.repo_files(piece.repo)}
    files = [listed[name] for name in needed_files(list(listed), piece.name, piece.repo_folder)]
    if not any(file.name.endswith(FILE_SUFFIXES) for file in files):
        what = "a folder" if piece.repo_folder else "a repository"
        raise WeightsError(f"{piece.wanted} is not {what} of {PIECES[piece.name]} weights: it holds none")
    missing, damaged = [], []
    for file in files:
        path = _path_of(file.name, piece.repo, top)
        if path is None or not path.is_file():
            missing.append(file)
        elif file.name.endswith((*FILE_SUFFIXES, INDEX_SUFFIX)) and path.stat().st_size != file.size:
            missing.append(file)
            damaged.append(file)
    return Transfer(piece, top, tuple(files), tuple(missing), tuple(damaged))


def _fetch_one(transfer: Transfer, weights_dir: str | os.PathLike[str] | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download

    wanted, repo, name = transfer.piece.wanted, transfer.piece.repo, transfer.piece.name
    try:
        for file in transfer.damaged:  # the client takes a file that exists for a whole one
            hf_hub_download(repo, file.name, local_dir=transfer.folder, force_download=True)
        # The client's own answer to a failure may be the folder as it is.
        names = [file.name for file in transfer.files]
        folder = Path(snapshot_download(repo, local_dir=transfer.folder, allow_patterns=names))
    except Exception as error:  # the hub client's own errors and its transport's have no common base
        raise WeightsError(hub.explain(error, repo)) from error
    short = [file.name for file in transfer.files if not (folder / file.name).is_file()]
    if short:
        raise WeightsError(f"the download of {wanted} is not complete, {', '.join(short)} are missing; run it again")
    piece = find_piece(name, wanted, weights_dir)
    if not piece.is_complete:
        what = "a folder" if piece.repo_folder else "a repository"
        raise WeightsError(f"{wanted} is not {what} of {PIECES[name]} weights: it lacks {', '.join(piece.gaps)}")
    problems = piece.damage()
    if problems:
        raise WeightsError("; ".join(problems))
    return piece.path


def _path_of(name: str, repo: str, folder: Path | None) -> Path | None:
    if folder is not None:
        return folder / name
    cached = hub.cached_file(repo, name)
    return Path(cached) if cached else None


def target_folder(piece: Piece, pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of a piece in ``weights_dir``: by the repository's name, with its owner if two ``pieces`` share it.

    A piece that is there in part is completed where it is, unless the hub's client manages that place.
    """
    if weights_dir is None:
        return None
    inside = piece.repo_folder
    if piece.place == "weights folder":
        top = piece.path.parent if inside else piece.path
        if top.parent.name != "snapshots":
            return piece.path
    name = piece.repo.split("/")[-1]
    others = {other.repo for other in pieces if other.repo is not None} - {piece.repo}
    is_alone = not any(other.split("/")[-1] == name for other in others)
    return root_folder(weights_dir) / (name if is_alone else piece.repo) / inside


def root_folder(weights_dir: str | os.PathLike[str] | None) -> Path:
    """The folder all downloads go to; one that exists is found as ``find_piece`` finds it."""
    if weights_dir is None:
        return hub.cache_folder()
    return find_path(weights_dir) or Path(weights_dir).expanduser()
