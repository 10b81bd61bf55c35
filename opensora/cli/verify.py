"""`weights verify`: check that weights on disk are complete, whole, of the right shapes and as they were on the hub.

The hub's client records the sha256 of large files: in its cache, a snapshot links to blobs that are named by it; a
folder that it downloads into holds `.cache/huggingface/download/FILE.metadata` with commit, checksum and time. The
client's own verification needs a network and reads whole repositories, so the comparison is made here.
Source: https://huggingface.co/docs/huggingface_hub, "Understand caching" and "Download files to a local folder"
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tqdm import tqdm
from transformers import T5Config, T5EncoderModel

from opensora.cli.weights import EXIT_BAD, read_wanted
from opensora.environment import command_line
from opensora.errors import WeightsError, one_line
from opensora.registry import model_class
from opensora.weights import hub
from opensora.weights.checkpoint import only_shapes, read_config, read_shapes
from opensora.weights.layout import PIECES, check_file, describe_format, small_files, weight_files
from opensora.weights.locate import Piece, find_piece

# What was found about a piece, with a sentence. In the last two states a run would fail, or give other videos.
State = Literal["ok", "unchecked", "missing", "damaged"]
Finding = tuple[State, str]
BAD: tuple[State, ...] = ("missing", "damaged")

_CHUNK = 8 * 1024 * 1024  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # one table under two names; files may hold either


def verify_weights(options: argparse.Namespace) -> int:
    """Print what was found about each piece and return the exit code; `options` are those of the command."""
    wanted, weights_dir, kinds = read_wanted(options)
    bad = []
    for name, source in wanted.items():
        place, findings = "", []
        try:
            piece = find_piece(name, source, weights_dir)
            findings = check_piece(piece, kinds[name])
            if piece.is_complete and not options.quick:
                findings += check_checksums(weight_files(piece.path))
            if piece.is_complete and str(piece.path) != source:
                place = f"  in {piece.path}"
        except WeightsError as error:
            findings.append(("damaged", str(error)))
        print(f"{PIECES[name]}  {source}{place}")
        for state, text in findings:
            print(f"  {state:<9}  {text}")
        if any(state in BAD for state, _ in findings):
            bad.append(PIECES[name])
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


def check_checksums(files: Iterable[Path]) -> list[Finding]:
    """Read the weight files that are whole and compare them with the checksums that the hub's client recorded."""
    equal, unknown, findings = [], [], []
    for file in _intact(files):
        checksum = _recorded_checksum(file)
        if checksum is None:
            unknown.append(file.name)
        elif _sha256(file) == checksum:
            equal.append(file.name)
        else:
            text = f"{file} does not have the sha256 that the hub recorded ({checksum[:8]}...); "
            findings.append(("damaged", f"{text}delete {file.resolve()} and download or copy it again"))
    if equal:
        findings.insert(0, ("ok", f"checksums as the hub recorded them: {', '.join(equal)}"))
    if unknown:
        findings.append(("unchecked", f"no checksums are known for {', '.join(unknown)}"))
    return findings


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
                sentences.append(f"{file} is empty; delete it, and download or copy it again")
            continue
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            sentences.append(f"{file} is not valid JSON; delete it, and download or copy it again")
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
        with only_shapes():
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


def _intact(files: Iterable[Path]) -> Iterable[Path]:
    """Yield the files that `check_file` accepts: one that is cut off need not be read."""
    for file in files:
        try:
            check_file(file)
        except WeightsError:
            continue
        yield file


def _recorded_checksum(file: Path) -> str | None:
    """Return the sha256 that the hub's client recorded when it downloaded `file`; None if there is no record."""
    # One step only: blobs may themselves be links to other stores, which name files differently.
    if file.is_symlink():
        target = Path(os.readlink(file))
        if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
            return target.name
    # Records are kept at the top of a download, which may be the folder around the file's.
    for top in (file.parent, file.parent.parent):
        record = top / ".cache" / "huggingface" / "download" / f"{file.relative_to(top)}.metadata"
        try:
            lines = record.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            continue
        return lines[1] if len(lines) > 1 and _SHA256.fullmatch(lines[1]) else None
    return None


def _sha256(file: Path) -> str:
    """Return the checksum of a file, under a bar that counts bytes."""
    digest = hashlib.sha256()
    size, options = file.stat().st_size, {"unit": "B", "unit_scale": True, "disable": None, "leave": False}
    with tqdm(total=size, desc=file.name, **options) as bar, file.open("rb") as stream:
        while part := stream.read(_CHUNK):
            digest.update(part)
            bar.update(len(part))
    return digest.hexdigest()
