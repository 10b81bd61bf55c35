"""Proving weights on disk complete, whole, of the right shapes and as the hub has them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opensora.errors import WeightsError
from opensora.weights import hub
from opensora.weights.checksums import is_checksum, is_sha256, matches, recorded_checksum
from opensora.weights.layout import describe_format, small_files, weight_files
from opensora.weights.locate import Piece
from opensora.weights.tensors import check_file

State = Literal["ok", "unchecked", "missing", "damaged"]
_BAD: tuple[State, ...] = ("missing", "damaged")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, in a sentence; ``state`` "unchecked" is no fault."""

    state: State
    text: str

    @property
    def is_bad(self) -> bool:
        """Whether a run would fail, or give other videos than the published weights."""
        return self.state in _BAD


def check_piece(piece: Piece, kind: str) -> list[Finding]:
    """All but the checksums: whether the files are there, whole, and fit the model; little of them is read.

    Args:
        kind: the ``type`` of the piece's section in the config.
    """
    if not piece.is_complete:
        return [_missing(piece)]
    findings = [Finding("damaged", text) for text in piece.damage()] + _check_json(piece)
    if findings:
        return findings
    size = hub.size_text(sum(file.stat().st_size for file in weight_files(piece.path)))
    findings = [Finding("ok", f"{describe_format(piece.path)}, {size}, whole")]
    from opensora.weights.checkpoint import CheckpointError
    from opensora.weights.fit import check_fit

    try:
        findings.append(Finding("ok", f"names and shapes of all tensors fit {check_fit(kind, piece.path)}"))
    except (CheckpointError, WeightsError) as error:
        findings.append(Finding("damaged", str(error)))
    return findings


def check_checksums(pieces: Sequence[Piece], show_progress: bool | None = None) -> dict[str, list[Finding]]:
    """Read all files of complete pieces and compare them with the hub's checksums; findings by the pieces' names.

    Args:
        show_progress: a bar over the bytes; None shows one on a terminal.
    """
    from tqdm import tqdm

    expected = {piece.name: _checksums(piece) for piece in pieces if piece.is_complete}
    total = sum(file.stat().st_size for known in expected.values() for file, checksum in known.items() if checksum)
    hidden = None if show_progress is None else not show_progress
    with tqdm(total=total, unit="B", unit_scale=True, desc="checksums", disable=hidden, leave=False) as bar:
        return {name: _compare(known, bar) for name, known in expected.items()}


def _missing(piece: Piece) -> Finding:
    if piece.path is not None:
        return Finding("missing", f"{piece.path} lacks {', '.join(piece.gaps)}")
    if piece.repo is not None:
        return Finding("missing", "not on this machine; 'python scripts/weights.py download' fetches it")
    return Finding("missing", f"there is no folder or file '{piece.wanted}'; correct {piece.name}.from_pretrained")


def _check_json(piece: Piece) -> list[Finding]:
    """Damaged small files of a folder: configs and tokenizers."""
    findings = []
    for file in small_files(piece.path, piece.name) if piece.path.is_dir() else []:
        if file.suffix != ".json":
            if not file.stat().st_size:
                findings.append(Finding("damaged", f"{file} is empty; download or copy it again"))
            continue
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            findings.append(Finding("damaged", f"{file} is not valid JSON; download or copy it again"))
    return findings


def _checksums(piece: Piece) -> dict[Path, str | None]:
    """The files of a piece that exist and are whole, with what is known about their contents."""
    files = list(_whole(weight_files(piece.path)))
    if piece.path.is_dir():
        files += small_files(piece.path, piece.name)
    known = {file: recorded_checksum(file) for file in files}
    if piece.repo is not None and not all(known.values()) and hub.is_reachable():
        try:
            listed = {file.name: file.checksum for file in hub.repo_files(piece.repo)}
        except WeightsError:
            return known  # its files are reported as unchecked
        for file in files:
            online = listed.get(piece.name_in_repo(file))
            known[file] = known[file] or (online if is_checksum(online) else None)
    return known


def _whole(files: Iterable[Path]) -> Iterable[Path]:
    """Those that ``check_piece`` has no complaint about: a file that is cut off need not be read."""
    for file in files:
        try:
            check_file(file)
        except WeightsError:
            continue
        yield file


def _compare(known: dict[Path, str | None], bar: object) -> list[Finding]:
    equal, unknown, findings = [], [], []
    for file, checksum in known.items():
        if checksum is None:
            unknown.append(file.name)
        elif matches(file, checksum, bar.update):
            equal.append(file.name)
        elif is_sha256(checksum):
            findings.append(
                Finding(
                    "damaged",
                    f"{file} has another sha256 than the hub recorded ({checksum[:8]}...); delete {file.resolve()} and "
                    "download or copy it again",
                )
            )
        else:
            findings.append(Finding("unchecked", f"{file.name} was changed after its download"))
    if equal:
        findings.insert(0, Finding("ok", f"checksums as the hub recorded them: {', '.join(equal)}"))
    if unknown:
        findings.append(Finding("unchecked", f"no checksums are known of {', '.join(unknown)}"))
    return findings
