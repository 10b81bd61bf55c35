"""The Hugging Face hub: names of repositories, its cache on this machine, and whether it can be reached."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

_TIMEOUT = 2.0  # seconds, for a connection
_REPO_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(\w[\w.-]*))?")
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

# Bytes of the published repositories, for when the hub cannot be asked.
KNOWN_SIZES = {
    "hpcai-tech/OpenSora-STDiT-v3": 4_800_000_000,
    "hpcai-tech/OpenSora-VAE-v1.2": 1_600_000_000,
    "DeepFloyd/t5-v1_1-xxl": 19_000_000_000,
}


def is_repo_name(text: str) -> bool:
    """Whether `text` can be a hub repository, OWNER/NAME, or a folder of one, OWNER/NAME/FOLDER."""
    return _REPO_NAME.fullmatch(text) is not None


def split_name(text: str) -> tuple[str, str]:
    """Split a name that `is_repo_name` accepts into the repository and the folder in it, "" for its top."""
    repo, folder = _REPO_NAME.fullmatch(text).groups()
    return repo, folder or ""


def size_text(size: int | None) -> str:
    """Format a number of bytes for people: "4.8 GB"."""
    if size is None:
        return "size unknown"
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if value < 9.95 and unit != "B" else f"{value:.0f} {unit}"


def cache_folder() -> Path:
    """Return the folder where the hub's client keeps what it downloads."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def snapshots(folder: Path, repo: str) -> Iterator[Path]:
    """Yield the snapshots of `repo` in a folder laid out like the hub's cache, that of `refs/main` first."""
    storage = folder / f"models--{repo.replace('/', '--')}"
    try:
        current = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        current = ""
    found = sorted(path for path in storage.glob("snapshots/*") if path.is_dir())
    yield from sorted(found, key=lambda path: path.name != current)


def is_offline() -> bool:
    """Whether the user forbids network access (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    return bool(constants.HF_HUB_OFFLINE)


def why_unreachable() -> str:
    """Say why `is_reachable` is False."""
    if not is_offline():
        return "the Hugging Face hub cannot be reached"
    given = [name for name in _OFFLINE_VARIABLES if os.environ.get(name)]
    return f"{given[0] if given else _OFFLINE_VARIABLES[0]} forbids downloads"


def is_reachable() -> bool:
    """Whether the hub (or the proxy on the way to it) accepts a connection; takes two seconds at most."""
    if is_offline():
        return False
    address = urlsplit(constants.ENDPOINT)
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    if proxy:
        address = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (80 if address.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, port), timeout=_TIMEOUT).close()
            answered.set()
        except OSError:
            pass  # not reachable: the event stays unset

    # Name resolution has no timeout of its own; a daemon thread need not be waited for.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_TIMEOUT + 0.2)
    return answered.is_set()
