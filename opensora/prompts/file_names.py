"""File names out of free text that every file system takes."""

from __future__ import annotations

import re

# Of the 255 bytes that file systems give a name; the rest is for endings (".frames.npz") and temporary names.
MAX_STEM_BYTES = 200

# Separators, what Windows refuses, control and line-separating characters, marks that turn the direction of
# writing (a name could show another ending than it has), and halves of surrogate pairs, which have no bytes.
_UNSAFE = re.compile(r'[\\/<>:"|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_TRAILING = re.compile(r"[\s.]+\Z")  # Windows drops them
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{device}{number}" for device in ("COM", "LPT") for number in "0123456789¹²³"}
)


def safe_stem(name: str, tail: str = "") -> str:
    """``name`` and ``tail`` as a file name without its ending; what is safe already stays as it is.

    ``name`` is cut to the bytes that ``tail``, such as "_0003", leaves over, so that numbers are never lost.
    """
    room = MAX_STEM_BYTES - len(tail.encode())
    stem = _cut(_UNSAFE.sub("_", name).strip(), room) + tail
    # A command takes a leading "-" for an option; a leading "." hides the file.
    if not stem or stem[0] in "-." or stem.split(".")[0].rstrip().upper() in _RESERVED:
        stem = _cut("_" + stem.removesuffix(tail), room) + tail
    return stem


def _cut(text: str, num_bytes: int) -> str:
    """The start of ``text`` that fits, without blanks and dots at its end."""
    return _TRAILING.sub("", text.encode()[: max(num_bytes, 0)].decode(errors="ignore"))
