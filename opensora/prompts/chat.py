"""One question to an OpenAI-compatible chat endpoint, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from opensora.errors import ConfigError, one_line

_MAX_BYTES = 1_000_000  # of an answer
_MAX_WAIT = 5.0  # seconds; the longest wait before the retry that an endpoint can ask for
_SAMPLING_OPTIONS = {"temperature": 0, "seed": 0}


class ChatError(Exception):
    """A question got no usable answer; the message says why in a few words.

    Args:
        status: of HTTP; None when there was no answer.
        wait: seconds to wait before a retry; None when a retry cannot help.
    """

    def __init__(self, reason: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(reason)
        self.status, self.wait = status, wait


class ChatEndpoint:
    """A language model behind HTTP.

    Args:
        url: base of the API, such as `http://localhost:8000/v1`.
        model: name of the model there.
        api_key: sent as a bearer token; never part of a message.
        timeout: seconds for an answer, and for each silence within it.
        retry_wait: seconds before the one retry after 429, 5xx or a broken connection, unless the endpoint names
            another time.

    Raises:
        ConfigError: the URL, the model or the key cannot be used.
    """

    def __init__(
        self, url: str, model: str, api_key: str | None = None, timeout: float = 30.0, retry_wait: float = 1.0
    ) -> None:
        self.url = url
        self._completions = _completions_url(url)
        if not model.strip():
            raise ConfigError("llm_model is empty; name the model that the endpoint serves")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("the API key holds characters that cannot be sent; check OPENAI_API_KEY")
        self._model, self._api_key, self._timeout, self._retry_wait = model, api_key, timeout, retry_wait
        # A proxy set in the environment does not lead to this machine.
        is_local = urllib.parse.urlsplit(self._completions).hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if is_local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)
        self._options: dict[str, Any] = dict(_SAMPLING_OPTIONS)  # emptied when the endpoint does not accept them

    def ask(self, system: str, user: str) -> str:
        """Ask one question and return the text of the answer.

        Raises:
            ChatError: there is no connection or no answer in time, or it is a refusal or not a chat completion.
        """
        try:
            return self._request(system, user)
        except ChatError as error:
            if error.status in (400, 422) and self._options:
                return self._ask_without_options(system, user)
            if error.wait is not None:
                time.sleep(error.wait)
            else:
                raise
        return self._request(system, user)

    def _ask_without_options(self, system: str, user: str) -> str:
        """Leave the options out, as some models take no temperature or seed; put them back where that does not help."""
        options, self._options = self._options, {}
        try:
            return self._request(system, user)
        except ChatError:
            self._options = options  # it was this question that was refused
            raise

    def _request(self, system: str, user: str) -> str:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {"model": self._model, "messages": messages, "stream": False, **self._options}
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self._completions, json.dumps(body).encode(), headers, method="POST")
        deadline = time.monotonic() + self._timeout
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                data = _read(response, deadline)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._no_answer(error) from error
        return _content(data)

    def _refusal(self, error: urllib.error.HTTPError) -> ChatError:
        with error:
            if 300 <= error.code < 400:
                return ChatError(f"HTTP {error.code}: it redirects elsewhere, which is not followed", error.code)
            wait = None
            if error.code == 429 or error.code >= 500:
                asked = error.headers.get("Retry-After", "")
                wait = min(float(asked), _MAX_WAIT) if asked.isascii() and asked.isdigit() else self._retry_wait
            reason = self._without_key(f"HTTP {error.code} {error.reason}{_detail(error)}".rstrip())
            return ChatError(reason, error.code, wait)

    def _no_answer(self, error: Exception) -> ChatError:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return ChatError(f"no answer within {self._timeout:g} s")
        if isinstance(cause, ConnectionRefusedError):
            return ChatError("the connection was refused; is the endpoint running?")
        if isinstance(cause, socket.gaierror):
            return ChatError("its host is not known")
        if isinstance(cause, ConnectionResetError | BrokenPipeError | http.client.IncompleteRead):
            return ChatError("the connection broke off", wait=self._retry_wait)
        return ChatError(self._without_key(one_line(cause) if isinstance(cause, Exception) else str(cause)))

    def _without_key(self, text: str) -> str:
        return text.replace(self._api_key, "...") if self._api_key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: they would turn the POST into a GET, and send the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        """Return None, which turns the redirect into an HTTPError."""


def _completions_url(url: str) -> str:
    base = url.strip().rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urllib.parse.urlsplit(base)
        is_usable = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
        is_usable = is_usable and base.isascii() and base.isprintable() and " " not in base
    except ValueError:  # of .port
        is_usable = False
    if not is_usable:
        raise ConfigError(f"llm_endpoint must be a URL such as http://localhost:8000/v1, got '{url}'")
    if parts.username is not None:
        raise ConfigError("llm_endpoint holds a user name or key; put the key into OPENAI_API_KEY instead")
    if parts.query or parts.fragment:
        raise ConfigError(f"llm_endpoint must be the base of the API, without '?' and '#', got '{url}'")
    return f"{base}/chat/completions"


def _read(response: Any, deadline: float) -> bytes:
    """Read the body until `deadline`: a socket's own timeout would let it drip in forever."""
    data = b""
    while chunk := response.read1(65_536):
        data += chunk
        if len(data) > _MAX_BYTES:
            raise ChatError("the answer is longer than a megabyte")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:  # announced but not sent, which read1 does not report
        raise http.client.IncompleteRead(data, response.length)
    return data


def _detail(error: urllib.error.HTTPError) -> str:
    """Return the first 150 characters of what an OpenAI-compatible endpoint says about a refusal, in parentheses."""
    try:
        message = json.loads(error.read(10_000))["error"]["message"]
        return f" ({' '.join(message.split())[:150]})"
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _content(data: bytes) -> str:
    """Return the text in a chat completion."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, RecursionError) as error:
        raise ChatError("the answer is not JSON") from error
    except (LookupError, TypeError) as error:
        raise ChatError("the answer is not a chat completion") from error
    if not isinstance(content, str):
        raise ChatError("the answer holds no text")
    return content
