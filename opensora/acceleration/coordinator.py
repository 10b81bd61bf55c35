"""The processes' connection to rank 0, which answers their questions and notices when one of them dies.

Every process, including rank 0, keeps one TCP connection to rank 0's coordinator for the whole run, and sends lines of
JSON. The operating system closes it when the process ends, whatever ended it, so that a death is noticed at once and
without any timeout, even while the others wait for the dead process in a collective operation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opensora.acceleration.launch import Launch

logger = logging.getLogger(__name__)

Handler = Callable[[int, Any], Any]

LEADER_DIED = "rank 0, which leads the run, died"
_CONNECT_SECONDS = 10.0
# A machine that is switched off sends nothing any more: its connection counts as broken after these probes.
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
        """Send a message; raises OSError if the other end is gone."""
        with self._sending:
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[Any]:
        """Yield the messages that arrive until the other end is gone, for whatever reason."""
        try:
            with self._end.makefile("rb") as lines:
                for line in lines:
                    yield json.loads(line)
        except (OSError, ValueError):  # reset, or cut off within a line
            return

    def close(self) -> None:
        """Hang up, which ends the reading at both ends."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()


class Coordinator:
    """Serves `world_size` processes from threads of rank 0.

    A process introduces itself with the token, then sends requests `{"ask": name, "value": ...}`, each answered by
    `{"answer": ...}` once its handler returns. One handler runs at a time. `publish` gives a value to all that ask
    for it with `wait`, before or afterwards.

    Args:
        on_death: called with the reason, in a sentence, once a process is gone without a goodbye, or has failed.

    Attributes:
        port: where it listens.
        token: secret that a process has to send first.
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
        """Answer requests of these names with the JSON value that the handler returns for (rank, value)."""
        with self._lock:
            self._handlers |= handlers

    def publish(self, name: str, value: Any) -> None:
        """Give `value` to all processes that wait for `name`."""
        with self._state:
            self._published[name] = value
            self._state.notify_all()

    def wait_for_goodbyes(self) -> None:
        """Return when every other process has said goodbye."""
        with self._state:
            self._state.wait_for(lambda: len(self._left - {0}) == self._world_size - 1)

    def close(self) -> None:
        """Hang up; deaths of processes are ignored from now on."""
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
                # In a thread of its own: a process that dies while it waits has to be noticed, too.
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
            self._end(f"rank 0 could not continue: {error}")
            return
        self._tell(connection, answer)

    def _answer_wait(self, connection: Connection, name: str) -> None:
        with self._state:
            self._state.wait_for(lambda: name in self._published)
            value = self._published[name]
        self._tell(connection, {"answer": value})

    def _end(self, reason: str, but: int | None = None) -> None:
        """End all processes, except `but`; only the first reason counts, as it may cause others."""
        with self._state:
            if self._death is not None or len(self._left) == self._world_size:
                return
            self._death = reason
            others = [c for rank, c in self._connections.items() if rank not in {but, 0} | self._left]
        for connection in others:
            self._tell(connection, {"end": reason})
        if but != 0:  # rank 0 says itself what is wrong
            self._on_death(reason)

    def _tell(self, connection: Connection, message: Any) -> None:
        with contextlib.suppress(OSError):  # if it is gone, its own thread notices
            connection.send(message)


class Member:
    """This process' connection to the coordinator of rank 0.

    Args:
        addresses: under which rank 0 may be reached; the first one that answers is used.
        on_death: called from a thread, with the reason, when the run is over because a process died or failed.

    Raises:
        OSError: rank 0 cannot be reached.
    """

    def __init__(
        self, launch: Launch, addresses: Sequence[str], port: int, token: str, on_death: Callable[[str], None]
    ) -> None:
        self._on_death = on_death
        self._answers: queue.Queue[Any] = queue.Queue()
        self._has_left = False
        self._asking = threading.Lock()
        self._connection = Connection(_connect(addresses, port))
        self._connection.send({"token": token, "rank": launch.rank, "name": launch.name})
        self._listener = threading.Thread(target=self._listen, daemon=True, name="member")
        self._listener.start()

    def ask(self, name: str, value: Any = None) -> Any:
        """Return what rank 0's handler of this name answers."""
        return self._request({"ask": name, "value": value})

    def wait(self, name: str) -> Any:
        """Return what rank 0 publishes under a name, however long that takes."""
        return self._request({"wait": name})

    def fail(self, reason: str) -> None:
        """Tell the others that this process cannot go on; they end with this reason."""
        self._has_left = True
        with contextlib.suppress(OSError):
            self._connection.send({"failed": reason})

    def leave(self) -> None:
        """Say goodbye: from now on this process may end unnoticed."""
        self._has_left = True
        self._request({"goodbye": True})

    def wait_for_the_end(self, seconds: float) -> None:
        """Give the news of a death some time to arrive, in which case this does not return."""
        self._listener.join(seconds)

    def _request(self, message: Any) -> Any:
        with self._asking:
            with contextlib.suppress(OSError):  # the listener notices, too, and reports why
                self._connection.send(message)
            return self._answers.get()

    def _listen(self) -> None:
        for message in self._connection.messages():
            if "end" in message:
                self._on_death(message["end"])
                return
            self._answers.put(message["answer"])
        if not self._has_left:
            self._on_death(LEADER_DIED)
        self._answers.put(None)  # for a goodbye to a rank 0 that is gone already


def _connect(addresses: Sequence[str], port: int) -> socket.socket:
    """Connect to the first address that answers; raises OSError if none does."""
    problems = []
    for address in dict.fromkeys(addresses):
        try:
            end = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
            end.settimeout(None)
            return end
        except OSError as error:
            problems.append(f"{address}: {error.strerror or error}")
    raise OSError(f"cannot reach rank 0 on port {port} ({'; '.join(problems)}); is a firewall between the machines?")
