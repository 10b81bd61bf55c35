"""Questions to the Hugging Face hub and its cache, answered quickly and without raising."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_TIMEOUT = 2.0  # seconds


def is_offline() -> bool:
    """Whether the user forbids network access (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_reachable() -> bool:
    """Whether the hub (or the proxy on the way to it) accepts a connection; takes two seconds at most."""
    if is_offline():
        return False
    from huggingface_hub import constants

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


def cached_file(repo: str, file: str) -> str | None:
    """Path of ``file`` in the cached snapshot of ``repo``, or None."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, file)
    except HFValidationError:
        return None
    return path if isinstance(path, str) else None
