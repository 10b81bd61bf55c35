"""Copies of cached weights in a folder that can be taken to a machine without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

from adacache.atomic import atomic_path
from opensora.weights.layout import piece_files
from opensora.weights.locate import Piece


def cached_files(piece: Piece) -> list[Path]:
    """The files of a piece in the hub's cache."""
    return piece_files(piece.path, piece.name)


def copy_from_cache(piece: Piece, folder: Path) -> None:
    """Copy the files of a piece from the hub's cache into ``folder``; those that are there in full size are kept.

    A tokenizer beside the piece is copied to beside ``folder``.

    Raises:
        OSError: a file cannot be read or written.
    """
    for file in cached_files(piece):
        target = folder / file.name if file.parent == piece.path else folder.parent / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == file.stat().st_size:
            continue
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
