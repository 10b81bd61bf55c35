"""Where files are found and how they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from opensora.errors import ConfigError, one_line, shortened

_BUNDLED = Path(__file__).resolve().with_name("bundled")
# The folder that has configs/ and assets/: the checkout, or what setup.py has copied into an installation.
REPO_ROOT = _BUNDLED if _BUNDLED.is_dir() else _BUNDLED.parents[1]


def is_utf8(text: str | os.PathLike[str]) -> bool:
    """Whether a text can be encoded; non-UTF-8 bytes of a command line or file name become lone surrogates in it."""
    try:
        os.fspath(text).encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str | os.PathLike[str]) -> str:
    """Return a text for a message, with non-UTF-8 bytes escaped."""
    return os.fspath(text).encode(errors="backslashreplace").decode()


def find_path(path: str | os.PathLike[str]) -> Path | None:
    """Return an existing `path`, looked up from the working directory, then from `REPO_ROOT`; else None."""
    if not os.fspath(path):
        return None
    for base in (Path(), REPO_ROOT):
        try:
            candidate = base / Path(path).expanduser()
            if candidate.exists():
                return candidate
        except (OSError, ValueError, RuntimeError):  # a name that is too long, has a NUL, or "~nobody"
            return None
    return None


def make_output_folder(folder: str | os.PathLike[str], flag: str = "--save-dir") -> Path:
    """Create `folder` if needed and check that files can be written into it.

    Args:
        flag: command-line flag that chooses another folder; the message names it.

    Raises:
        ConfigError: the folder cannot be created or written to.
    """
    if not is_utf8(folder):
        raise ConfigError(
            f"the output folder '{printable(folder)}' has bytes that are not UTF-8; choose another one with {flag}"
        )
    try:
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL; RuntimeError: "~nobody"
        reason = (getattr(error, "strerror", None) or one_line(error)).lower()
        raise ConfigError(
            f"cannot write to the output folder '{shortened(folder)}' ({reason}); choose another one with {flag}"
        ) from error
    return folder
