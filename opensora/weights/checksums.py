"""Checksums of downloaded files against those that the hub recorded for them.

The hub's client keeps them beside the files: in its cache, a snapshot links to blobs that are named by their checksum;
beside a folder of its own choice there is ``.cache/huggingface/download/FILE.metadata`` with commit, checksum and time.
Large files have a sha256, small ones the hash of a git blob.
Source: https://huggingface.co/docs/huggingface_hub, "Understand caching" and "Download files to a local folder"
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

_CHUNK = 8 * 1024 * 1024  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")


def recorded_checksum(file: Path) -> str | None:
    """What the hub's client recorded when it downloaded ``file``; None if it did not, or kept nothing."""
    # One step only: blobs may themselves be links to other stores, which name files differently.
    if file.is_symlink():
        target = Path(os.readlink(file))
        if target.parent.name == "blobs" and is_checksum(target.name):
            return target.name
    # Records are kept at the top of a download, which may be the folder around the file's.
    records = (
        top / ".cache" / "huggingface" / "download" / f"{file.relative_to(top)}.metadata"
        for top in (file.parent, file.parent.parent)
    )
    for record in records:
        try:
            lines = record.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        return lines[1].strip() if len(lines) > 1 and is_checksum(lines[1].strip()) else None
    return None


def is_checksum(text: str | None) -> bool:
    """Whether ``text`` is a sha256 or git's hash of a file, in hexadecimal digits."""
    return text is not None and bool(_SHA256.fullmatch(text) or _GIT_SHA1.fullmatch(text))


def is_sha256(checksum: str) -> bool:
    """Whether a checksum is of the kind that large files have."""
    return _SHA256.fullmatch(checksum) is not None


def matches(file: Path, checksum: str, progress: Callable[[int], object] = lambda size: None) -> bool:
    """Read ``file`` and compare; ``progress`` is told the bytes of every part that was read.

    Raises:
        OSError: the file cannot be read.
    """
    if is_sha256(checksum):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while part := stream.read(_CHUNK):
            digest.update(part)
            progress(len(part))
    return digest.hexdigest() == checksum
