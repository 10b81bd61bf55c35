"""Refinement against a server of our own: what it asks, what it keeps, and what it makes of every failure."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.errors import ConfigError
from opensora.prompts.chat import ChatEndpoint
from opensora.prompts.refine import PromptRefiner, Refined, _plain, api_key_from_env
from opensora.prompts.syntax import split_prompt, split_settings

KEY = "sk-of-nobody"


def completion(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Server:
    """An endpoint that answers with what ``answers`` holds, one after the other, and then refines by itself."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, bytes, dict[str, str]] | Callable[[BaseHTTPRequestHandler], None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append({"path": self.path, **body})
                server.headers.append(dict(self.headers))
                user = body["messages"][-1]["content"]
                answer = server.answers.pop(0) if server.answers else (200, completion(f"fine {user}"), {})
                if callable(answer):
                    answer(self)
                    return
                status, data, headers = answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def refiner(server: Server, **options: Any) -> PromptRefiner:
    return PromptRefiner(ChatEndpoint(server.url, "tiny", **{"retry_wait": 0.0, "timeout": 5.0, **options}))


def test_a_prompt(server):
    assert refiner(server, api_key=KEY).refine(" a cat ") == Refined("fine a cat ")
    [request], [headers] = server.requests, server.headers
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["seed"]) == ("tiny", 0, 0)
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert request["messages"][1]["content"] == "a cat"
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent(server):
    refiner(server).refine("a cat")
    assert "Authorization" not in server.headers[0]


def test_segments_and_settings_are_kept(server):
    prompt = '|0| a day |2|a night  {"mask_strategy": "0"}'
    refined = refiner(server).refine(prompt)
    assert refined == Refined('|0|fine a day|2|fine a night  {"mask_strategy": "0"}')
    assert [request["messages"][1]["content"] for request in server.requests] == ["a day", "a night"]


@pytest.mark.parametrize(
    "answer, text",
    [
        ('  "A cat\n\nruns."\n', "A cat runs."),
        ("“A 'small' cat”", "A 'small' cat"),
        ('"A" and "B"', '"A" and "B"'),
        ("<think>\nthe user wants\n</think>\nA cat.", "A cat."),
        ("the user wants\n</think>\nA cat.", "A cat."),  # the template began the thought
        ("<think>a</think><think>b</think> A cat.", "A cat."),
        ("|0| A {cat} |1| x|y", "A (cat) x y"),
        ("a cat", "a cat"),
    ],
)
def test_answers_are_cleaned(server, answer, text):
    server.answers = [(200, completion(answer), {})]
    assert refiner(server).refine("a cat") == Refined(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text() | st.text("|0123{}\"' \n"))
def test_an_answer_never_means_more_than_text(answer):
    text = _plain(answer)
    assert split_prompt(text) == ([text], None) and split_settings(text) == (text, {})
    assert split_prompt(f"|0|{text}|1|{text}")[1] == [0, 1]
    assert len(text.splitlines()) <= 1 and text.encode() is not None


@pytest.mark.parametrize("prompt", ["", "  ", '{"mask_strategy": "0"}', "|0|  "])
def test_nothing_to_refine(server, prompt):
    assert refiner(server).refine(prompt) == Refined(prompt)
    assert not server.requests


def test_markers_that_cannot_be_read(server):
    result = refiner(server).refine("|0|a|0|b")
    assert "must ascend" in result.problem and not server.requests


def slow_start(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.6)


def slow_end(handler: BaseHTTPRequestHandler) -> None:
    """Drips in, so that no single silence is too long."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\0\0\0 no http\r\n\r\n")


@pytest.mark.parametrize(
    "answers, problem",
    [
        ([(404, b"", {})], "HTTP 404 Not Found"),
        ([(401, b'{"error": {"message": "bad key\\n sk-of-nobody"}}', {})], r"401 Unauthorized \(bad key \.\.\.\)$"),
        ([(401, b'{"error": "no object"}', {})], "HTTP 401 Unauthorized$"),
        ([(400, b"", {}), (400, b"", {})], "HTTP 400 Bad Request"),
        ([(429, b"", {}), (429, b"", {})], "HTTP 429 Too Many Requests"),
        ([(500, b"", {}), (503, b"", {})], "HTTP 503 Service Unavailable"),
        ([(302, b"", {"Location": "http://127.0.0.1:1/"})], "HTTP 302: it redirects elsewhere"),
        ([(307, b"", {"Location": "/v2/chat/completions"})], "HTTP 307: it redirects elsewhere"),
        ([(308, b"", {"Location": "file:///etc/passwd"})], "HTTP 308: it redirects elsewhere"),
        ([(200, b"", {})], "the answer is not JSON"),
        ([(200, b"<html>", {})], "the answer is not JSON"),
        ([(200, b"\xff\xfe\xfa", {})], "the answer is not JSON"),
        ([(200, b"[" * 100_000, {})], "the answer is not JSON"),
        ([(200, b"{}", {})], "the answer is not a chat completion"),
        ([(200, b"[]", {})], "the answer is not a chat completion"),
        ([(200, b'{"choices": []}', {})], "the answer is not a chat completion"),
        ([(200, completion(None), {})], "the answer holds no text"),
        ([(200, completion(" \n"), {})], "the answer is empty"),
        ([(200, completion("<think>hm</think>"), {})], "the answer is empty"),
        ([(200, completion("<think>the user wants a"), {})], "the answer is empty"),
        ([(200, completion("x" * 2001), {})], "the answer has 2001 characters, more than 2000"),
        ([(200, b" " * 1_000_001, {})], "the answer is longer than a megabyte"),
        ([hang_up, hang_up], "the connection broke off"),
        ([cut_off, cut_off], "the connection broke off"),
        ([garbage], "no http"),
        ([slow_start], "no answer within 0.3 s"),
        ([slow_end], "no answer within 0.3 s"),
    ],
)
def test_a_failure_leaves_the_prompt_as_it_is(server, answers, problem):
    server.answers = list(answers)
    started = time.monotonic()
    result = refiner(server, timeout=0.3, api_key=KEY).refine("|0|a cat|1|a dog {}")
    assert time.monotonic() - started < 2
    assert result.text == "|0|a cat|1|a dog {}"
    with pytest.raises(ValueError, match=problem):
        raise ValueError(result.problem)
    assert result.problem.startswith(f"the prompt is not refined: {server.url}: ") and "\n" not in result.problem
    assert KEY not in result.problem and not server.answers


def test_when_the_second_segment_fails_none_is_changed(server):
    server.answers = [(200, completion("fine"), {}), (404, b"", {})]
    assert refiner(server).refine("|0|a|1|b").text == "|0|a|1|b"


@pytest.mark.parametrize("first", [(429, b"", {}), (500, b"", {}), (429, b"", {"Retry-After": "0"}), hang_up])
def test_one_retry(server, first):
    server.answers = [first]
    assert refiner(server).refine("a cat") == Refined("fine a cat")
    assert len(server.requests) == 2


def test_retry_waits_as_asked_but_not_for_long(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("opensora.prompts.chat.time.sleep", waits.append)
    for asked in ("2", "3600", "Wed, 21 Oct 2026 07:28:00 GMT"):
        server.answers = [(429, b"", {"Retry-After": asked})]
        refiner(server, retry_wait=0.5).refine("a cat")
    assert waits == [2, 5, 0.5]


def test_a_model_without_temperature_and_seed_is_asked_without(server):
    server.answers = [(400, b'{"error": {"message": "temperature is not supported"}}', {})]
    asker = refiner(server)
    assert [asker.refine(prompt).problem for prompt in ("a cat", "a dog")] == [None, None]
    assert ["temperature" in request for request in server.requests] == [True, False, False]


def test_a_prompt_that_is_refused_changes_nothing_for_those_after_it(server):
    refusal = (400, b'{"error": {"message": "this prompt is refused"}}', {})
    server.answers = [refusal, refusal]
    asker = refiner(server)
    problems = [asker.refine(prompt).problem for prompt in ("a cat", "a dog")]
    assert problems[0] is not None and problems[1] is None
    assert ["temperature" in request for request in server.requests] == [True, False, True]


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = PromptRefiner(ChatEndpoint(f"http://127.0.0.1:{port}/v1", "tiny")).refine("a cat")
    assert result.text == "a cat" and "the connection was refused; is the endpoint running?" in result.problem


def test_after_three_failures_in_a_row_nothing_is_asked_any_more(server, caplog):
    caplog.set_level(logging.WARNING)
    asker = refiner(server)
    missing = (404, b"", {})
    server.answers = [missing, missing, (200, completion("fine"), {}), missing, missing, missing]
    results = [asker.refine("a cat") for _ in range(8)]
    assert [result.text for result in results] == ["a cat"] * 2 + ["fine"] + ["a cat"] * 5
    assert asker.gave_up and len(server.requests) == 6
    assert results[-1].problem == f"the prompt is not refined: {server.url} failed 3 times"
    assert [record.getMessage() for record in caplog.records] == [
        f"{server.url} failed 3 times in a row; the other prompts are not refined"
    ]


def test_a_proxy_is_not_asked_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert refiner(server).refine("a cat").text == "fine a cat"


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_end_of_the_url(server, ending):
    assert PromptRefiner(ChatEndpoint(server.url + ending, "tiny")).refine("a cat").text == "fine a cat"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"url": "localhost:8000"}, "llm_endpoint must be a URL such as"),
        ({"url": "file:///etc/passwd"}, "llm_endpoint must be a URL"),
        ({"url": "http://"}, "llm_endpoint must be a URL"),
        ({"url": "http://host:port/v1"}, "llm_endpoint must be a URL"),
        ({"url": "http://[::1/v1"}, "llm_endpoint must be a URL"),
        ({"url": "http://a b/v1"}, "llm_endpoint must be a URL"),
        ({"url": "http://host/v1?x=1"}, "without '\\?' and '#'"),
        ({"url": f"http://me:{KEY}@host/v1"}, "put the key into OPENAI_API_KEY"),
        ({"model": " "}, "llm_model is empty"),
        ({"api_key": "a\nb"}, "characters that cannot be sent; check OPENAI_API_KEY"),
        ({"api_key": "ä"}, "characters that cannot be sent"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        ChatEndpoint(**{"url": "http://localhost:8000/v1", "model": "tiny", **options})
    assert KEY not in str(error.value)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    assert api_key_from_env() == KEY
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert api_key_from_env() is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert api_key_from_env() is None
