"""`weights verify`: check that weights on disk are complete, whole, of the right shapes and as the hub has them.

The hub's client keeps checksums beside the files: in its cache, a snapshot links to blobs that are named by their
checksum; a folder that it downloads into holds `.cache/huggingface/download/FILE.metadata` with commit, checksum and
time. Large files have a sha256, small ones the hash of a git blob. The client's own verification needs a network and
reads whole repositories, so the comparison is made here.
Source: https://huggingface.co/docs/huggingface_hub, "Understand caching" and "Download files to a local folder"
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm
from transformers import T5Config, T5EncoderModel

from opensora.cli.weights import EXIT_BAD, read_wanted
from opensora.environment import command_line
from opensora.errors import WeightsError, one_line
from opensora.registry import model_class
from opensora.weights import hub
from opensora.weights.checkpoint import read_config, read_shapes
from opensora.weights.download import repo_files
from opensora.weights.layout import PIECES, check_file, describe_format, small_files, weight_files
from opensora.weights.locate import Piece, find_piece

# What was found about a piece, with a sentence. In the last two states a run would fail, or give other videos.
State = Literal["ok", "unchecked", "missing", "damaged"]
Finding = tuple[State, str]
BAD: tuple[State, ...] = ("missing", "damaged")

_CHUNK = 8 * 1024 * 1024  # bytes
_SHA256_DIGITS = 64
_CHECKSUM = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")  # sha256, or git's hash
_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files may hold either


def verify_weights(options: argparse.Namespace) -> int:
    """Print what was found about each piece and return the exit code; `options` are those of the command."""
    wanted, weights_dir, kinds = read_wanted(options)
    pieces: list[Piece] = []
    findings: dict[str, list[Finding]] = {}
    for name, source in wanted.items():
        try:
            pieces.append(find_piece(name, source, weights_dir))
            findings[name] = check_piece(pieces[-1], kinds[name])
        except WeightsError as error:
            findings[name] = [("damaged", str(error))]
    for name, more in ({} if options.quick else check_checksums(pieces)).items():
        findings[name] += more
    for name, source in wanted.items():
        path = next((piece.path for piece in pieces if piece.name == name and piece.is_complete), None)
        print(f"{PIECES[name]}  {source}" + ("" if path is None or str(path) == source else f"  in {path}"))
        for state, text in findings[name]:
            print(f"  {state:<9}  {text}")
    bad = [PIECES[name] for name, found in findings.items() if any(state in BAD for state, _ in found)]
    print(f"not usable: {', '.join(bad)}" if bad else "all weights can be used")
    return EXIT_BAD if bad else 0


def check_piece(piece: Piece, kind: str) -> list[Finding]:
    """Check all but the checksums: whether the files are there, whole, and fit the model; little of them is read.

    Args:
        kind: the `type` of the piece's section in the config.
    """
    if not piece.is_complete:
        return [("missing", _what_is_missing(piece))]
    damage = [("damaged", text) for text in [*piece.damage(), *_damaged_small_files(piece)]]
    if damage:
        return damage
    size = hub.size_text(sum(file.stat().st_size for file in weight_files(piece.path)))
    whole = ("ok", f"{describe_format(piece.path)}, {size}, whole")
    try:
        return [whole, ("ok", f"names and shapes of all tensors fit {_check_fit(kind, piece.path)}")]
    except WeightsError as error:
        return [whole, ("damaged", str(error))]


def check_checksums(pieces: Sequence[Piece]) -> dict[str, list[Finding]]:
    """Read all files of complete pieces and compare them with the hub's checksums; return findings by piece name."""
    expected = {piece.name: _checksums(piece) for piece in pieces if piece.is_complete}
    total = sum(file.stat().st_size for known in expected.values() for file, checksum in known.items() if checksum)
    with tqdm(total=total, unit="B", unit_scale=True, desc="checksums", disable=None, leave=False) as bar:
        return {name: _compare(known, bar) for name, known in expected.items()}


def _what_is_missing(piece: Piece) -> str:
    if piece.path is not None:
        return f"{piece.path} lacks {', '.join(piece.gaps)}"
    if piece.repo is not None:
        return f"not on this machine; '{command_line('weights')} download' fetches it"
    return f"there is no folder or file '{piece.wanted}'; correct {piece.name}.from_pretrained"


def _damaged_small_files(piece: Piece) -> list[str]:
    """Return a sentence for each config or tokenizer file of a piece's folder that cannot be read."""
    sentences = []
    for file in small_files(piece.path, piece.name) if piece.path.is_dir() else []:
        if file.suffix != ".json":
            if not file.stat().st_size:
                sentences.append(f"{file} is empty; download or copy it again")
            continue
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            sentences.append(f"{file} is not valid JSON; download or copy it again")
    return sentences


def _check_fit(kind: str, path: Path) -> str:
    """Return the name of the model class, if the files of a piece hold its tensors by name and shape.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape, or config.json cannot be used.
    """
    if kind != "t5":
        model_class(kind).check_pretrained(path)
        return model_class(kind).__name__
    try:
        config = T5Config.from_dict(read_config(path))
        with torch.device("meta"):
            model = T5EncoderModel(config)
    except WeightsError:
        raise
    except Exception as error:  # the errors of T5Config's strict checks of values have no common base
        raise WeightsError(f"{path / 'config.json'} cannot be used: {one_line(error)}") from error
    found = read_shapes(weight_files(path))
    for name, tensor in model.state_dict().items():
        stored = [found[other] for other in (_TIED if name in _TIED else (name,)) if other in found]
        if not stored:
            raise WeightsError(f"{path} does not fit T5EncoderModel: it lacks {name}")
        if stored[0] != tuple(tensor.shape):
            asked = tuple(tensor.shape)
            raise WeightsError(
                f"{path} does not fit T5EncoderModel: {name} has shape {stored[0]}, its config.json asks for {asked}"
            )
    return "T5EncoderModel"


def _checksums(piece: Piece) -> dict[Path, str | None]:
    """Return file -> checksum, or None if unknown, for the files of a piece that exist and are whole."""
    files = list(_intact(weight_files(piece.path)))
    if piece.path.is_dir():
        files += small_files(piece.path, piece.name)
    known = {file: _recorded_checksum(file) for file in files}
    if piece.repo is not None and not all(known.values()) and hub.is_reachable():
        try:
            listed = repo_files(piece.repo)
        except WeightsError:
            return known  # its files are reported as unchecked
        for file in files:
            online = listed.get(piece.name_in_repo(file))
            if known[file] is None and online is not None:
                known[file] = online.lfs.sha256 if online.lfs else online.blob_id
    return known


def _intact(files: Iterable[Path]) -> Iterable[Path]:
    """Yield the files that `check_file` accepts: one that is cut off need not be read."""
    for file in files:
        try:
            check_file(file)
        except WeightsError:
            continue
        yield file


def _recorded_checksum(file: Path) -> str | None:
    """Return the checksum that the hub's client recorded when it downloaded `file`; None if there is no record."""
    # One step only: blobs may themselves be links to other stores, which name files differently.
    if file.is_symlink():
        target = Path(os.readlink(file))
        if target.parent.name == "blobs" and _CHECKSUM.fullmatch(target.name):
            return target.name
    # Records are kept at the top of a download, which may be the folder around the file's.
    for top in (file.parent, file.parent.parent):
        record = top / ".cache" / "huggingface" / "download" / f"{file.relative_to(top)}.metadata"
        try:
            lines = record.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            continue
        return lines[1] if len(lines) > 1 and _CHECKSUM.fullmatch(lines[1]) else None
    return None


def _compare(known: dict[Path, str | None], bar: tqdm) -> list[Finding]:
    equal, unknown, findings = [], [], []
    for file, checksum in known.items():
        if checksum is None:
            unknown.append(file.name)
        elif _matches(file, checksum, bar):
            equal.append(file.name)
        elif len(checksum) == _SHA256_DIGITS:
            text = f"{file} does not have the sha256 that the hub recorded ({checksum[:8]}...); "
            fix = f"delete {file.resolve()} and download or copy it again"
            findings.append(("damaged", text + fix))
        else:
            findings.append(("unchecked", f"{file.name} was changed after its download"))
    if equal:
        findings.insert(0, ("ok", f"checksums as the hub recorded them: {', '.join(equal)}"))
    if unknown:
        findings.append(("unchecked", f"no checksums are known for {', '.join(unknown)}"))
    return findings


def _matches(file: Path, checksum: str, bar: tqdm) -> bool:
    """Read `file` and compare its checksum; `bar` counts bytes."""
    if len(checksum) == _SHA256_DIGITS:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while part := stream.read(_CHUNK):
            digest.update(part)
            bar.update(len(part))
    return digest.hexdigest() == checksum
