"""Versions of what can change a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("torch", "diffusers", "transformers", "mmengine", "av", "numpy", "opensora-adacache")


def versions() -> dict[str, str]:
    """Of Python and of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
