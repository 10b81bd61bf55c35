"""The machine and the software that figures were taken on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.timing.machine import describe_machine
from opensora.device import check_device

PACKAGES = ("diffusers", "transformers", "mmengine", "av", "numpy", "lpips", "cvvdp", "opensora-adacache")


def machine_info(device: str | None) -> tuple[dict[str, Any], str | None]:
    """The machine with the versions of packages, and the commit with a + where files differ from it.

    The GPU is None where ``device`` is not one.
    """
    machine = describe_machine()
    commit, dirty = machine.pop("commit"), machine.pop("dirty")
    machine.pop("date")
    if check_device(device).type != "cuda":
        machine["gpu"] = None
    return machine | {"packages": _versions()}, None if commit is None else commit + ("+" if dirty else "")


def _versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
