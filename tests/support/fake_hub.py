"""A Hugging Face hub on this machine: a few repositories over HTTP, with transfers that can be cut off."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_FILES = (".safetensors", ".bin", ".pt", "spiece.model")  # those the hub keeps by their sha256


def checksum(name: str, data: bytes) -> str:
    """The hub's checksum of a file."""
    if name.endswith(LARGE_FILES):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


class FakeHub:
    """Repositories by name, each a table of files.

    Attributes:
        cut: names of files whose next transfer breaks off halfway.
        broken: REPOSITORY/FILE that are refused, as if access had been lost.
        requests: what was asked for, (method, path, Range header).
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.cut: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    def transfers(self, name: str) -> list[str | None]:
        """The Range headers of all transfers of a file."""
        return [part for method, path, part in self.requests if method == "GET" and path.endswith(f"/{name}")]

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        """Serve on a free port of this machine."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._deliver("/".join(parts[:2]), "/".join(parts[4:]), body)
        else:
            self._missing("RepoNotFound")

    def _describe(self, repo: str, rest: list[str], body: bool) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self._missing("RepoNotFound")
            return
        entries = []
        for name, data in files.items():
            lfs = {"sha256": checksum(name, data), "oid": checksum(name, data), "size": len(data), "pointerSize": 130}
            entry = {"size": len(data), **({"lfs": lfs} if name.endswith(LARGE_FILES) else {})}
            if rest[:1] == ["tree"]:
                entries.append({"type": "file", "path": name, "oid": checksum(name, data)[:40], **entry})
            else:
                entries.append({"rfilename": name, "blobId": checksum(name, data)[:40], **entry})
        answer = entries if rest[:1] == ["tree"] else {"id": repo, "sha": COMMIT, "siblings": entries, "tags": []}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _deliver(self, repo: str, name: str, body: bool) -> None:
        data = self.hub.repos.get(repo, {}).get(name)
        if data is None:
            self._missing("EntryNotFound")
            return
        if f"{repo}/{name}" in self.hub.broken:
            self._send(403, b"{}", {}, body)
            return
        etag = checksum(name, data)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        headers |= {"X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
        asked, status = self.headers.get("Range"), 200
        if asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        cut_off = body and name in self.hub.cut
        self._send(status, data, headers, body, sent=len(data) // 2 if cut_off else None)
        if cut_off:
            self.hub.cut.discard(name)
            self.close_connection = True

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not found"}, self.command == "GET")

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:sent])
