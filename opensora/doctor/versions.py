"""Versions of Python and the packages, and whether they go together."""

from __future__ import annotations

import platform
import sys

from opensora.doctor.finding import Finding, ok, problem, warning
from opensora.doctor.packages import installed_version, release, requirements

SHOWN = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "safetensors",
    "mmengine",
    "colossalai",
    "av",
    "numpy",
    "pillow",
    "opensora-adacache",
)
OLDEST_PYTHON = (3, 11)

_COLOSSALAI = "0.5.0"  # requirements-colossalai.txt
_NO_NUMPY_2 = (2, 3)  # from here on PyTorch's builds take NumPy 1 and 2


def check_versions() -> list[Finding]:
    """Names and versions, and a Python that is too old."""
    python = f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    found = {name: installed_version(name) for name in SHOWN}
    packages = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    findings = [ok(python), ok(packages)]
    if sys.version_info[:2] < OLDEST_PYTHON:
        text = f"python {platform.python_version()} is older than {'.'.join(map(str, OLDEST_PYTHON))}"
        findings.append(problem(text, "make an environment with Python 3.11 or newer and install there"))
    return findings


def check_requirements() -> list[Finding]:
    """Packages that are missing, too old or too new for this project."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requirements()]
    if not wanted:
        fix = "install this project with 'pip install --no-deps -e .' in its folder"
        return [warning("it is not known which versions are needed: this project is not installed", fix)]
    findings = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        version = installed_version(requirement.name)
        fix = f"run: pip install '{requirement.name}{requirement.specifier}'"
        if version is None:
            findings.append(problem(f"{requirement.name} is not installed", fix))
        elif not requirement.specifier.contains(version, prereleases=True):
            text = f"{requirement.name} {version} is installed, but {requirement.specifier} is needed"
            findings.append(problem(text, fix))
    return findings or [ok("all packages are there, in versions that are known to work")]


def check_numpy() -> list[Finding]:
    """Whether PyTorch and NumPy can exchange arrays: a PyTorch built for NumPy 1 cannot with NumPy 2."""
    numpy, torch = installed_version("numpy"), installed_version("torch")
    if numpy is None or torch is None:
        return []  # the requirements say so
    if release(numpy) >= (2,) and release(torch) < _NO_NUMPY_2:
        fix = "run: pip install 'torch>=2.6' (or, to keep this PyTorch, 'numpy<2')"
        return [problem(f"torch {torch} was built for NumPy 1, but numpy {numpy} is installed", fix)]
    reason = _exchange_error()
    if reason is not None:
        fix = "run: pip install --force-reinstall numpy torch"
        return [problem(f"PyTorch and NumPy cannot exchange arrays: {reason}", fix)]
    return [ok("PyTorch and NumPy exchange arrays")]


def check_colossalai() -> list[Finding]:
    """The package that only runs on several devices need."""
    version = installed_version("colossalai")
    if version is None:
        return [ok("colossalai is not installed; a single process needs none")]
    if version != _COLOSSALAI:
        text = f"colossalai {version} is installed; this project is tested with {_COLOSSALAI}"
        fix = "run: pip install --no-deps --no-build-isolation -r requirements-colossalai.txt"
        return [warning(text, fix)]
    return [ok(f"colossalai {version}; what 'pip check' says about its pins can be ignored")]


def _exchange_error() -> str | None:
    import numpy
    import torch

    try:
        torch.from_numpy(numpy.zeros(1)).numpy()
    except (RuntimeError, TypeError) as error:
        return str(error)
    return None
