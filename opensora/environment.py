"""What this project needs of the Python that runs it, told without importing any of it."""

from __future__ import annotations

import ast
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from types import TracebackType

from opensora.files import REPO_ROOT

try:
    from packaging.requirements import Requirement
except ImportError:  # itself one of the packages that are asked for
    Requirement = None

PROJECT = "opensora-adacache"
_OURS = ("adacache", "bench", "mini", "opensora")


def explain_missing_packages() -> None:
    """Let a package that is not installed end this program with one sentence instead of a traceback.

    Entry scripts call it before they import anything but the standard library.
    """
    sys.excepthook = _explain


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    name = (getattr(error, "name", None) or "").split(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or name in ("", *_OURS):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {sys.executable} has no package {name}; {how_to_get_packages()}", file=sys.stderr)


def is_environment() -> bool:
    """Whether this Python belongs to a virtual or conda environment; conda's base counts as the system's."""
    conda = os.environ.get("CONDA_PREFIX") == sys.prefix and os.environ.get("CONDA_DEFAULT_ENV", "base") != "base"
    return conda or sys.prefix != sys.base_prefix


def how_to_get_packages() -> str:
    """What to type where packages are missing; nothing is ever installed into the system's Python."""
    if is_environment():
        return f"run: {sys.executable} -m pip install -r {REPO_ROOT / 'requirements.txt'}"
    activate = REPO_ROOT / ".venv/bin/activate"
    if activate.is_file():
        return f"run: source {activate}"
    return f"run: bash {REPO_ROOT / 'run_sample_video.sh'} --help, which makes an environment, then: source {activate}"


def installed_version(package: str) -> str | None:
    """Of a distribution by its name on the package index; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirements(extra: str = "") -> list[str]:
    """What this project needs, such as "torch>=2.6", by setup.py, else as its installation wrote it down.

    Args:
        extra: the name of optional requirements that are listed, too.
    """
    file = REPO_ROOT / "setup.py"
    if not file.is_file():
        try:
            listed = [text.partition(";") for text in requires(PROJECT) or []]
        except PackageNotFoundError:
            return []
        return [text.strip() for text, _, marker in listed if "extra" not in marker or f'"{extra}"' in marker]
    tree = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    lists = {node.arg: node.value for node in tree if isinstance(node, ast.keyword)}
    more = ast.literal_eval(lists["extras_require"]).get(extra, [])
    return [*ast.literal_eval(lists["install_requires"]), *more]


def unmet_requirements(extra: str = "") -> dict[str, str | None]:
    """Those of ``requirements`` that are not met, with the version that is installed; None if there is none."""
    names = {text: re.match(r"[\w.-]+", text)[0] for text in requirements(extra)}
    installed = {text: installed_version(name) for text, name in names.items()}
    return {text: found for text, found in installed.items() if found is None or not _is_in_range(text, found)}


def _is_in_range(text: str, found: str) -> bool:
    return Requirement is None or Requirement(text).specifier.contains(found, prereleases=True)
