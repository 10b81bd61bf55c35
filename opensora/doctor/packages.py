"""Facts about installed packages, taken without importing them into this process."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from opensora.files import REPO_ROOT

PROJECT = "opensora-adacache"

_TIMEOUT = 90  # seconds; imports from a cold network disk are slow


def installed_version(package: str) -> str | None:
    """Of a distribution by its name on the package index; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_importable(module: str) -> bool:
    """Whether a top-level module is there, however it got there; it may fail when it is imported."""
    return find_spec(module) is not None


def import_error(statement: str) -> str | None:
    """The last line that another Python process says when it fails at an import statement; None if it succeeds."""
    try:
        done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT} seconds"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"the process ended with code {done.returncode}"


def release(text: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 13, 0) of "2.13.0+cpu"."""
    return tuple(int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3])


def requirements() -> Sequence[str]:
    """What this project needs, such as "torch>=2.6", as set-up wrote it down, else by setup.py; empty if unknown."""
    try:
        listed = requires(PROJECT)
    except PackageNotFoundError:
        return _requirements_of_setup()
    return [text for text in listed or [] if "extra ==" not in text]


def _requirements_of_setup() -> list[str]:
    """Of a checkout that is used without being installed."""
    file = REPO_ROOT / "setup.py"
    if not file.is_file():
        return []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "install_requires":
            return ast.literal_eval(node.value)
    return []
