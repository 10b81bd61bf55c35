"""What a check of the doctor finds, and the checks of packages, which import none of them into this process."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from opensora.environment import (
    OLDEST_PYTHON,
    how_to_get_packages,
    installed_version,
    is_environment,
    requirements,
    unmet_requirements,
)

SHOWN = ("torch", "diffusers", "transformers", "tokenizers", "safetensors", "mmengine", "colossalai", "av", "numpy")
SHOWN += ("pillow", "opensora-adacache")

_TIMEOUT = 90  # seconds; imports from a cold network disk are slow
# Packages that nothing here needs, but that diffusers or transformers import where they are installed:
# module -> (distribution, import statement that reaches its compiled part).
_EXTRAS = {
    "torchvision": ("torchvision", "import torchvision; torchvision.ops.nms"),
    "xformers": ("xformers", "import xformers.ops"),
    "flash_attn": ("flash-attn", "import flash_attn"),
    "apex": ("apex", "import torch, apex.normalization"),
}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True)
class Finding:
    """What a check found about one thing.

    Attributes:
        state: "problem": sampling fails, or gives wrong videos; "warning": it may be intended, or costs something.
        text: what was found.
        fix: what to do about it, in one sentence; empty if nothing.
    """

    state: Literal["ok", "warning", "problem"]
    text: str
    fix: str = ""


Check = Callable[[], list[Finding]]


def ok(text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """Return a finding that may be intended, or costs something, while videos come out right."""
    return Finding("warning", text, fix)


def problem(text: str, fix: str) -> Finding:
    """Return a finding that makes sampling fail, or give wrong videos."""
    return Finding("problem", text, fix)


def pip(arguments: str) -> str:
    """Return the advice to run pip or, where Python is the system's own, how to get packages otherwise."""
    return f"run: pip {arguments}" if is_environment() else how_to_get_packages()


def sections() -> Iterator[tuple[str, list[Check]]]:
    """Yield titles and checks in the order of printing."""
    yield "versions", [check_versions, check_requirements]
    yield "other packages", [check_extras]
    yield "environment", [check_hub_variables]


def check_versions() -> list[Finding]:
    """Report names and versions, and a Python that is too old."""
    version = platform.python_version()
    place = "" if is_environment() else ", not in a virtual environment"
    found = {name: installed_version(name) for name in SHOWN}
    packages = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    findings = [
        ok(f"python {version} on {platform.system()} {platform.machine()}{place}"),
        ok(packages or "no packages"),
    ]
    if sys.version_info[:2] < OLDEST_PYTHON:
        text = f"python {version} is older than {'.'.join(map(str, OLDEST_PYTHON))}"
        findings.append(problem(text, "make an environment with Python 3.11 or newer and install there"))
    return findings


def check_requirements() -> list[Finding]:
    """Find packages that are missing, too old or too new for this project."""
    if not requirements():
        fix = "install this project with 'pip install --no-deps -e .' in its folder"
        return [warning("it is not known which versions are needed: this project is not installed", fix)]
    unmet = unmet_requirements()
    if not unmet:
        return [ok("all packages are installed, in versions known to work")]
    names = {text: re.match(r"[\w.-]+", text)[0] for text in unmet}
    sentences = [f"{names[text]} {found} is installed, but {text} is needed" for text, found in unmet.items() if found]
    if missing := [names[text] for text, found in unmet.items() if found is None]:
        sentences.append(f"not installed: {', '.join(missing)}")
    quoted = [f"'{text}'" for text in unmet]
    return [problem("; ".join(sentences), pip(f"install {' '.join(quoted)}"))]


def check_extras() -> list[Finding]:
    """Import, in another process, packages that do harm where they do not fit PyTorch."""
    findings = []
    for module, (distribution, statement) in _EXTRAS.items():
        if find_spec(module) is None:
            continue
        name = f"{module} {installed_version(distribution) or 'of unknown version'}"
        reason = import_error(statement)
        if reason is None:
            findings.append(ok(f"{name} fits, but is not needed"))
        else:
            text = f"{name} is installed but cannot be imported ({reason}); diffusers or transformers may fail with it"
            fix = pip(f"uninstall {distribution} (nothing here needs it), or install one that fits your PyTorch")
            findings.append(problem(text, fix))
    return findings or [ok("no torchvision, xformers, flash-attn or apex; none is needed")]


def check_hub_variables() -> list[Finding]:
    """Find environment variables that forbid downloads."""
    forbidding = [name for name in _OFFLINE if os.environ.get(name, "").upper() in _TRUE]
    if not forbidding:
        return [ok("downloads of weights are allowed")]
    fix = f"run: unset {' '.join(forbidding)}, unless all weights are here"
    return [warning(f"{' and '.join(forbidding)} forbid{'s' * (len(forbidding) == 1)} downloads of weights", fix)]


def import_error(statement: str) -> str | None:
    """Run an import statement in another Python process; return the last line of its error, None if it succeeds."""
    try:
        done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT} seconds"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"the process ended with code {done.returncode}"
