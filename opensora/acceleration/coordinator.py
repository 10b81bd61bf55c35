"""Rank 0's side of the coordination: it answers the processes' questions and notices when one of them dies.

Every process, rank 0 among them, keeps one TCP connection to this server for the whole run. The operating system closes
it when the process ends, whatever ended it, so that a death is noticed at once and without any timeout, also while the
others wait for the dead one within a collective operation.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from opensora.acceleration.wire import Connection

logger = logging.getLogger(__name__)

Handler = Callable[[int, Any], Any]


class Coordinator:
    """Serves ``world_size`` processes from threads of rank 0.

    A process introduces itself with the token, then sends requests ``{"ask": name, "value": ...}``, each answered by
    ``{"answer": ...}`` once its handler returns. One handler runs at a time. ``publish`` gives a value to all that ask
    for it by ``wait``, before or after.

    Args:
        on_death: told the reason, in a sentence, once a process is gone that had not said goodbye, or one that failed.

    Attributes:
        port: where it listens.
        token: what a process has to show there.
    """

    def __init__(self, world_size: int, on_death: Callable[[str], None]) -> None:
        self._world_size = world_size
        self._on_death = on_death
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.RLock()  # one handler at a time
        self._state = threading.Condition()
        self._published: dict[str, Any] = {}
        self._connections: dict[int, Connection] = {}
        self._names: dict[int, str] = {}
        self._left: set[int] = set()
        self._death: str | None = None
        self.token = secrets.token_hex(16)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, backlog=world_size, dualstack_ipv6=both)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True, name="coordinator").start()

    def handle(self, handlers: Mapping[str, Handler]) -> None:
        """Answer requests of these names by what a handler returns for (rank, value), a JSON value."""
        with self._lock:
            self._handlers |= handlers

    def publish(self, name: str, value: Any) -> None:
        """Give ``value`` to all that wait for ``name``."""
        with self._state:
            self._published[name] = value
            self._state.notify_all()

    def wait_for_goodbyes(self) -> None:
        """Return when every other process has said goodbye."""
        with self._state:
            self._state.wait_for(lambda: len(self._left - {0}) == self._world_size - 1)

    def close(self) -> None:
        """Hang up; what becomes of the processes from here on does not matter any more."""
        with self._state:
            self._death = self._death or "the run is over"
        self._server.close()
        for connection in list(self._connections.values()):
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(Connection(end),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        messages = connection.messages()
        hello = next(messages, None)
        if not isinstance(hello, dict) or hello.get("token") != self.token:  # a stranger
            connection.close()
            return
        rank = hello["rank"]
        with self._state:
            self._connections[rank], self._names[rank] = connection, hello["name"]
            death = self._death
        if death is not None:
            self._tell(connection, {"end": death})
        for message in messages:
            if "goodbye" in message:
                with self._state:
                    self._left.add(rank)
                    self._state.notify_all()
                # Only now may the process end: its connection is not watched any more.
                self._tell(connection, {"answer": None})
            elif "failed" in message:
                self._end(f"{self._names[rank]} failed: {message['failed']}", but=rank)
            elif "wait" in message:
                # By a thread of its own: a process that dies while it waits has to be noticed, too.
                threading.Thread(target=self._answer_wait, args=(connection, message["wait"]), daemon=True).start()
            else:
                self._answer(connection, rank, message)
        if rank not in self._left:
            self._end(f"{self._names[rank]} died", but=rank)

    def _answer(self, connection: Connection, rank: int, message: Mapping[str, Any]) -> None:
        try:
            with self._lock:
                answer = {"answer": self._handlers[message["ask"]](rank, message.get("value"))}
        except Exception as error:  # an error of the disk, say: it ends the run, with its own words
            logger.debug("request %s failed", message, exc_info=True)
            self._end(f"rank 0 could not go on: {error}")
            return
        self._tell(connection, answer)

    def _answer_wait(self, connection: Connection, name: str) -> None:
        with self._state:
            self._state.wait_for(lambda: name in self._published)
            value = self._published[name]
        self._tell(connection, {"answer": value})

    def _end(self, reason: str, but: int | None = None) -> None:
        """End all processes; only the first reason counts, as it may bring about others."""
        with self._state:
            if self._death is not None or len(self._left) == self._world_size:
                return
            self._death = reason
            others = [c for rank, c in self._connections.items() if rank not in {but, 0} | self._left]
        for connection in others:
            self._tell(connection, {"end": reason})
        if but != 0:  # which says itself what is wrong
            self._on_death(reason)

    def _tell(self, connection: Connection, message: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, which its own thread notices
            connection.send(message)
