"""A process' side of the coordination."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from opensora.acceleration.launch import Launch
from opensora.acceleration.wire import Connection

LEADER_DIED = "rank 0, which leads the run, died"
_CONNECT_SECONDS = 10.0


class Member:
    """This process' connection to the coordinator of rank 0.

    Args:
        addresses: under which rank 0 may be reached; the first that answers is taken.
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
        """What rank 0's handler of this name answers."""
        return self._request({"ask": name, "value": value})

    def wait(self, name: str) -> Any:
        """What rank 0 publishes under a name, however long that takes."""
        return self._request({"wait": name})

    def fail(self, reason: str) -> None:
        """Tell the others that this process cannot go on; they end, with this reason."""
        self._has_left = True
        with contextlib.suppress(OSError):
            self._connection.send({"failed": reason})

    def leave(self) -> None:
        """Say goodbye: from here on this process may end unnoticed."""
        self._has_left = True
        self._request({"goodbye": True})

    def wait_for_the_end(self, seconds: float) -> None:
        """Give the news of a death some time to arrive, in which case this does not return."""
        self._listener.join(seconds)

    def _request(self, message: Any) -> Any:
        with self._asking:
            with contextlib.suppress(OSError):  # the listener knows, too, and says why
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
        self._answers.put(None)  # whoever says goodbye to a rank 0 that is gone already


def _connect(addresses: Sequence[str], port: int) -> socket.socket:
    """Raises: OSError: none of the addresses answers."""
    problems = []
    for address in dict.fromkeys(addresses):
        try:
            end = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
            end.settimeout(None)
            return end
        except OSError as error:
            problems.append(f"{address}: {error.strerror or error}")
    raise OSError(f"cannot reach rank 0 on port {port} ({'; '.join(problems)}); is a firewall between the machines?")
