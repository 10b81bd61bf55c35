"""What this project needs of the Python that runs it, checked without importing any of the packages."""

from __future__ import annotations

import ast
import atexit
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from types import TracebackType
from typing import NoReturn

from opensora.files import REPO_ROOT

try:
    from packaging.requirements import Requirement
except ImportError:  # itself one of the packages that may be missing
    Requirement = None

PROJECT = "opensora-adacache"
OLDEST_PYTHON = (3, 11)
_OURS = ("adacache", "bench", "mini", "opensora")


def enter_environment() -> None:
    """Restart with the interpreter of ./.venv, which the set-up has made, if no environment is active.

    Entry scripts call it before they import anything but the standard library. From then on a missing package ends the
    program with one sentence instead of a traceback.
    """
    sys.excepthook = _report_uncaught
    python = REPO_ROOT / ".venv/bin/python"
    is_active = is_environment() or "VIRTUAL_ENV" in os.environ or _is_conda()
    if not is_active and has_venv() and hasattr(sys, "orig_argv"):
        # Marked as active: an interpreter that is a script around another one would restart forever.
        os.environ["VIRTUAL_ENV"] = str(python.parents[1])
        os.execv(python, [str(python), *sys.orig_argv[1:]])
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        sys.exit(f"error: {sys.executable} is older than Python {needed}; {how_to_get_packages()}")


def has_venv() -> bool:
    """Whether the set-up has made ./.venv and has finished."""
    return (REPO_ROOT / ".venv/bin/python").is_file() and not (REPO_ROOT / ".venv-unfinished").exists()


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep garbage collection off while large libraries are imported, and away from their million objects later.

    Looking for garbage among them would take a second of the start, and they are there to stay.
    """
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
            atexit.register(gc.unfreeze)
        gc.enable()


def leave(code: int) -> NoReturn:
    """End this process as sys.exit does, but without destroying all objects, which would take another second."""
    if sys.getprofile() or sys.gettrace():
        sys.exit(code)  # a profiler or debugger reports at the end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    name = (getattr(error, "name", None) or "").split(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or name in ("", *_OURS):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {sys.executable} has no package {name}; {how_to_get_packages()}", file=sys.stderr)


def is_environment() -> bool:
    """Whether this Python belongs to a virtual or conda environment; conda's base counts as the system's."""
    return (_is_conda() and os.environ["CONDA_PREFIX"] == sys.prefix) or sys.prefix != sys.base_prefix


def _is_conda() -> bool:
    """Whether an environment of conda is active."""
    return "CONDA_PREFIX" in os.environ and os.environ.get("CONDA_DEFAULT_ENV", "base") != "base"


def how_to_get_packages() -> str:
    """Return what to type if packages are missing; nothing is ever installed into the system's Python."""
    requirements_file = REPO_ROOT / "requirements.txt"
    if not requirements_file.is_file():
        return f"install {PROJECT} again, with all it needs, into an environment of its own"
    if is_environment():
        return f"run: {sys.executable} -m pip install -r {requirements_file}"
    if has_venv():
        return f"run: source {REPO_ROOT / '.venv/bin/activate'}"
    return f"run: bash {REPO_ROOT / 'run_sample_video.sh'} --help, which makes an environment that all commands find"


def command_line(command: str) -> str:
    """Return how a command is typed: as a script of the checkout, or as `opensora COMMAND` if it is installed."""
    return f"python scripts/{command}.py" if (REPO_ROOT / "scripts").is_dir() else f"opensora {command}"


def installed_version(package: str) -> str | None:
    """Return the version of a distribution, by its name on the package index; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirements(extra: str = "") -> list[str]:
    """List what this project needs, such as "torch>=2.6", from setup.py or else from the installation's metadata.

    Args:
        extra: name of a set of optional requirements to list, too.
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
    """Return those `requirements` that are not met, with the installed version or None."""
    names = {text: re.match(r"[\w.-]+", text)[0] for text in requirements(extra)}
    installed = {text: installed_version(name) for text, name in names.items()}
    return {text: found for text, found in installed.items() if found is None or not _is_in_range(text, found)}


def _is_in_range(text: str, found: str) -> bool:
    return Requirement is None or Requirement(text).specifier.contains(found, prereleases=True)
