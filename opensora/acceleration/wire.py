"""Messages between the coordinator and the processes: lines of JSON over TCP."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

# A machine that is switched off sends nothing any more: its connection counts as broken after these.
_IDLE, _INTERVAL, _PROBES = 5, 3, 4  # seconds until the first probe, between probes, probes: 17 s


class Connection:
    """One end of a connection; several threads may send, one reads."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._sending = threading.Lock()
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
            if hasattr(socket, name):
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Any) -> None:
        """Raises: OSError: nobody is there any more."""
        with self._sending:
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[Any]:
        """What arrives, until the other end is gone, however that came about."""
        try:
            with self._end.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
        except (OSError, ValueError):  # reset, or cut off within a line
            return

    def close(self) -> None:
        """Hang up; whoever reads here or there is told."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()
