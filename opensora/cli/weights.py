"""`weights list` and `weights download`: the weights that a config needs."""

from __future__ import annotations

import argparse
import sys

from opensora.config.loading import load_config
from opensora.errors import WeightsError
from opensora.files import find_path
from opensora.weights import hub
from opensora.weights.download import (
    check_space,
    copy_from_cache,
    fetch,
    free_space,
    plan,
    repo_files,
    root_folder,
    target_folder,
)
from opensora.weights.layout import PIECES, describe_format, needed_files, piece_files, weight_files
from opensora.weights.locate import Piece, find_piece

EXIT_BAD = 1  # something is damaged or missing


def list_weights(options: argparse.Namespace) -> int:
    """Print a line for each piece."""
    wanted, weights_dir, _ = read_wanted(options)
    rows = [("piece", "repository or path", "size", "found", "format")]
    for name, source in wanted.items():
        try:
            rows.append(_row(find_piece(name, source, weights_dir)))
        except WeightsError as error:
            rows.append((PIECES[name], source, "-", f"unusable: {error}", "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]))
    return 0


def download_weights(options: argparse.Namespace) -> int:
    """Print how much is missing, fetch it, and return the exit code."""
    wanted, weights_dir, _ = read_wanted(options)
    pieces = [find_piece(name, source, weights_dir) for name, source in wanted.items()]
    problems, to_copy, to_fetch = [], [], []
    for piece in pieces:
        if piece.is_complete and not piece.damage():
            if piece.place == "hub cache" and weights_dir is not None:
                to_copy.append(piece)
            else:
                print(f"{PIECES[piece.name]} {piece.wanted}: in {piece.path}")
        elif piece.repo is None:
            problems.append(_not_downloadable(piece))
        else:
            to_fetch.append(piece)
    transfers = plan(to_fetch, weights_dir)
    sizes = [transfer.size for transfer in transfers]
    for transfer in transfers:
        print(transfer)
    for piece in to_copy:
        sizes.append(sum(file.stat().st_size for file in piece_files(piece.path, piece.name)))
        print(f"{PIECES[piece.name]} {piece.wanted}: {hub.size_text(sizes[-1])} to copy from the hub's cache")
    if sizes:
        folder = root_folder(weights_dir)
        print(
            f"{hub.size_text(sum(sizes))} in all; {hub.size_text(free_space(folder))} are free in {folder}", flush=True
        )
        check_space(sum(sizes), weights_dir)
    folders, failed = fetch(transfers, weights_dir)
    for piece in to_copy:
        folders[piece.name] = target_folder(piece, pieces, weights_dir)
        copy_from_cache(piece, folders[piece.name])
    for name, folder in folders.items():
        print(f"{PIECES[name]} {wanted[name]}: in {folder}")
    for problem in [*problems, *failed]:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_BAD if problems or failed else 0


def read_wanted(options: argparse.Namespace) -> tuple[dict[str, str], str | None, dict[str, str]]:
    """Return the `from_pretrained` of every piece, the folder of weights, and the `type` of every piece.

    Raises:
        ConfigError: the config cannot be used.
        WeightsError: the folder of weights does not exist.
    """
    config = load_config(options.config, None, options.cfg_options)
    weights_dir = config.weights_dir if options.weights_dir is None else options.weights_dir
    folder = None if weights_dir is None else find_path(weights_dir)
    if options.command != "download" and weights_dir is not None and (folder is None or not folder.is_dir()):
        raise WeightsError(
            f"weights_dir '{weights_dir}' is not a folder; correct it, or let the command download make and fill it"
        )
    sections = {name: getattr(config, name) for name in PIECES}
    wanted = {name: section.from_pretrained for name, section in sections.items()}
    return wanted, weights_dir, {name: section.type for name, section in sections.items()}


def _not_downloadable(piece: Piece) -> str:
    what = f"{piece.name}.from_pretrained='{piece.wanted}'"
    if piece.path is None:
        return f"{what} is neither a folder, a file nor the name of a hub repository; correct it"
    lacks = "; ".join(piece.damage()) or f"it lacks {', '.join(piece.gaps)}"
    return f"{what} is a folder of your own, which is not downloaded: {lacks}"


def _row(piece: Piece) -> tuple[str, ...]:
    label = PIECES[piece.name]
    if piece.is_complete:
        size = sum(file.stat().st_size for file in weight_files(piece.path))
        return label, piece.wanted, hub.size_text(size), f"{piece.place} {piece.path}", describe_format(piece.path)
    found = "missing" if piece.path is None else f"incomplete: {piece.path} lacks {', '.join(piece.gaps)}"
    return label, piece.wanted, hub.size_text(_size_on_hub(piece)), found, "-"


def _size_on_hub(piece: Piece) -> int | None:
    """Return the bytes of a repository, by the hub's list if the size is not among the known ones; None without it."""
    if piece.repo is None or piece.wanted in hub.KNOWN_SIZES or not hub.is_reachable():
        return hub.KNOWN_SIZES.get(piece.wanted)
    try:
        listed = repo_files(piece.repo)
    except WeightsError:
        return None
    return sum(listed[name].size or 0 for name in needed_files(list(listed), piece.name, piece.repo_folder))
