"""Fetching pieces of a model from the hub; `huggingface_hub` moves the bytes.

Finished files are kept when a download is interrupted, and what is whole is not fetched again. File sizes decide what
is to be fetched: the client's own dry run takes a truncated file for a whole one, and asks the hub about every file.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling

from adacache.atomic import atomic_path
from opensora.errors import WeightsError, one_line
from opensora.files import find_path
from opensora.weights import hub
from opensora.weights.layout import FILE_SUFFIXES, INDEX_SUFFIX, PIECES, check_file, needed_files, piece_files
from opensora.weights.locate import Piece, WeightPaths, find_piece

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 10.0  # seconds, for the list of a repository's files


@dataclass(frozen=True)
class Transfer:
    """What has to be fetched from one repository.

    Attributes:
        folder: where the repository's files go; None for the hub's cache.
        files: names of all files of the piece.
        missing: name -> full size in bytes, for the files that are absent or damaged.
        damaged: names of the damaged ones among `missing`, of another size or content than their names say.
    """

    piece: Piece
    folder: Path | None
    files: tuple[str, ...]
    missing: dict[str, int]
    damaged: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(self.missing.values())

    def __str__(self) -> str:
        where = "the hub's cache" if self.folder is None else self.folder / self.piece.repo_folder
        rest = "" if len(self.missing) == len(self.files) else ", the rest is there"
        return f"{PIECES[self.piece.name]} {self.piece.wanted}: {hub.size_text(self.size)} to {where}{rest}"


def download_missing(weights: WeightPaths) -> WeightPaths:
    """Fetch what is not on this machine yet, with the hub's progress bars, and return where everything is.

    Raises:
        WeightsError: the disk has no room for it, or a download failed or is incomplete.
    """
    if not weights.to_download:
        return weights
    pieces = [find_piece(name, getattr(weights, name), weights.weights_dir) for name in weights.to_download]
    folders = {name: str(path) for name, path in download(pieces, weights.weights_dir).items()}
    return replace(weights, **folders, to_download=())


def download(pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Fetch `pieces` and return their folders by the pieces' names.

    Raises:
        WeightsError: the disk has no room for them, or some could not be fetched; names all of these.
    """
    transfers = plan(pieces, weights_dir)
    check_space(sum(transfer.size for transfer in transfers), weights_dir)
    folders, problems = fetch(transfers, weights_dir)
    if problems:
        raise WeightsError("; ".join(problems))
    return folders


def plan(pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None = None) -> list[Transfer]:
    """Return what `download` would fetch, by the hub's own list of files.

    Raises:
        WeightsError: downloads are forbidden, the hub cannot be reached, or repositories do not exist or do not hold
            their piece; names all of these.
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


def repo_files(repo: str) -> dict[str, RepoSibling]:
    """List all files of a repository by name, with sizes and checksums, as the hub knows them.

    Raises:
        WeightsError: the repository does not exist or may not be read, or the hub does not answer.
    """
    try:
        info = huggingface_hub.HfApi().repo_info(repo, files_metadata=True, timeout=_ANSWER_TIMEOUT)
    except Exception as error:  # the hub client's own errors and its transport's have no common base
        raise WeightsError(_describe_failure(error, repo)) from error
    return {file.rfilename: file for file in info.siblings or []}


def check_space(needed: int, weights_dir: str | os.PathLike[str] | None = None) -> None:
    """Refuse a download of `needed` bytes that the disk has no room for.

    Raises:
        WeightsError: names the sizes, and how to choose another disk.
    """
    folder = root_folder(weights_dir)
    free = free_space(folder)
    if needed > free:
        raise WeightsError(
            f"{hub.size_text(needed)} are needed in {folder}, where {hub.size_text(free)} are free; make "
            "room, or choose a folder on another disk with --weights-dir"
        )


def free_space(folder: Path) -> int:
    """Return the bytes free on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(existing_part(folder)).free


def existing_part(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def fetch(
    transfers: Sequence[Transfer], weights_dir: str | os.PathLike[str] | None = None
) -> tuple[dict[str, Path], list[str]]:
    """Run all transfers, even after one failed; return the folders by piece name, and a sentence per failure."""
    folders: dict[str, Path] = {}
    problems: list[str] = []
    for transfer in transfers:
        logger.info("downloading %s", transfer)
        try:
            folders[transfer.piece.name] = _fetch_one(transfer, weights_dir)
        except WeightsError as error:
            problems.append(str(error))
    return folders, problems


def copy_from_cache(piece: Piece, folder: Path) -> None:
    """Copy the files of a piece from the hub's cache into `folder`; files already there in full size are kept.

    A tokenizer in a folder beside the piece goes into a folder beside `folder`.

    Raises:
        OSError: a file cannot be read or written.
    """
    for file in piece_files(piece.path, piece.name):
        target = folder / file.name if file.parent == piece.path else folder.parent / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == file.stat().st_size:
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)


def target_folder(piece: Piece, pieces: Sequence[Piece], weights_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return a piece's folder in `weights_dir`: the repository's name, with its owner if another piece's has the same.

    A piece that is there in part is completed where it is, unless the hub's client manages that place. None stands for
    the hub's cache.
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
    """Return the folder that all downloads go to; an existing one is looked up as `find_piece` does."""
    if weights_dir is None:
        return hub.cache_folder()
    return find_path(weights_dir) or Path(weights_dir).expanduser()


def _plan_one(piece: Piece, folder: Path | None) -> Transfer:
    """Return what has to be fetched for a piece into its `folder`."""
    listed = repo_files(piece.repo)
    names = needed_files(list(listed), piece.name, piece.repo_folder)
    if not any(name.endswith(FILE_SUFFIXES) for name in names):
        what = "a folder" if piece.repo_folder else "a repository"
        raise WeightsError(f"{piece.wanted} is not {what} of {PIECES[piece.name]} weights: it holds none")
    top = folder.parent if folder is not None and piece.repo_folder else folder
    there = top or next(hub.snapshots(hub.cache_folder(), piece.repo), None)
    missing, damaged = {}, []
    for name in names:
        size = listed[name].size or 0
        is_there = there is not None and (there / name).is_file()
        is_weights = name.endswith((*FILE_SUFFIXES, INDEX_SUFFIX))
        is_damaged = is_there and is_weights and _is_damaged(there / name, size)
        if not is_there or is_damaged:
            missing[name] = size
        if is_damaged:
            damaged.append(name)
    return Transfer(piece, top, tuple(names), missing, tuple(damaged))


def _is_damaged(file: Path, size: int) -> bool:
    """Whether a weight file or an index has another size than the published one, or is not what its name says."""
    if file.stat().st_size != size:
        return True
    if file.name.endswith(INDEX_SUFFIX):
        return False
    try:
        check_file(file)
    except WeightsError:
        return True
    return False


def _fetch_one(transfer: Transfer, weights_dir: str | os.PathLike[str] | None) -> Path:
    piece, repo = transfer.piece, transfer.piece.repo
    try:
        for name in transfer.damaged:  # the client takes any file that exists for a whole one
            huggingface_hub.hf_hub_download(repo, name, local_dir=transfer.folder, force_download=True)
        top = huggingface_hub.snapshot_download(repo, local_dir=transfer.folder, allow_patterns=list(transfer.files))
    except Exception as error:  # the hub client's own errors and its transport's have no common base
        raise WeightsError(_describe_failure(error, repo)) from error
    # If the client fails, it may return the folder as it is.
    short = [name for name in transfer.files if not (Path(top) / name).is_file()]
    if short:
        raise WeightsError(
            f"the download of {piece.wanted} is not complete, {', '.join(short)} are missing; run it again"
        )
    found = find_piece(piece.name, piece.wanted, weights_dir)
    if not found.is_complete:
        what = "a folder" if piece.repo_folder else "a repository"
        raise WeightsError(
            f"{piece.wanted} is not {what} of {PIECES[piece.name]} weights: it lacks {', '.join(found.gaps)}"
        )
    if problems := found.damage():
        raise WeightsError("; ".join(problems))
    return found.path


def _describe_failure(error: Exception, repo: str) -> str:
    """Say in one sentence what went wrong with a repository."""
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        page = f"{hub.constants.ENDPOINT}/{repo}"
        return f"{repo} asks for consent: agree to its terms at {page}, then run 'hf auth login'"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no repository {repo} on the hub, or it is private; correct the name or run 'hf auth login'"
    return f"the hub could not deliver {repo} ({one_line(error)}); run the command again to continue"
