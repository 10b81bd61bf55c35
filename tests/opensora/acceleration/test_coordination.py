"""The connection of every process to rank 0: questions, news, and what a death does."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest

from opensora.acceleration.coordinator import Coordinator, Member
from opensora.acceleration.launch import Launch

PATIENCE = 20.0  # seconds


class News:
    """What a process was told about the end of the run."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._told = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._told.set()

    def wait(self) -> str:
        assert self._told.wait(PATIENCE)
        return self.reasons[0]


@pytest.fixture
def run():
    """Three connected processes and their news."""
    news = [News() for _ in range(3)]
    coordinator = Coordinator(3, news[0])

    def join(rank: int) -> Member:
        return Member(Launch(rank, 3, rank, "0"), ["127.0.0.1"], coordinator.port, coordinator.token, news[rank])

    members = [join(rank) for rank in range(3)]
    coordinator.handle({"rank": lambda rank, value: [rank, value]})
    for member in members:  # so that all of them have introduced themselves
        member.ask("rank")
    yield SimpleNamespace(coordinator=coordinator, members=members, news=news)
    coordinator.close()


def kill(member: Member) -> None:
    """What the operating system does to the connection of a process that dies."""
    member._connection.close()


def test_questions_are_answered_to_who_asked(run):
    assert [member.ask("rank", {"x": i}) for i, member in enumerate(run.members)] == [[i, {"x": i}] for i in range(3)]


def test_what_is_published_reaches_who_waits_before_and_after(run):
    seen = []
    waiting = threading.Thread(target=lambda: seen.append(run.members[1].wait("plan")))
    waiting.start()
    run.coordinator.publish("plan", [1, 2])
    waiting.join(PATIENCE)
    assert seen == [[1, 2]]
    assert run.members[2].wait("plan") == [1, 2]


def test_a_death_is_told_to_all_others_by_name(run):
    kill(run.members[2])
    for news in run.news[:2]:
        assert "rank 2 (host " in news.wait()
        assert news.wait().endswith(" died")


def test_a_death_is_noticed_while_the_process_waits(run):
    threading.Thread(target=lambda: run.members[1].wait("never"), daemon=True).start()
    kill(run.members[1])
    assert run.news[0].wait().startswith("rank 1 ")
    assert run.news[2].wait().startswith("rank 1 ")


def test_a_failure_is_told_with_its_reason(run):
    run.members[1].fail("the device ran out of memory")
    for news in (run.news[0], run.news[2]):
        assert news.wait().startswith("rank 1 (host ")
        assert news.wait().endswith(" failed: the device ran out of memory")
    assert run.news[1].reasons == []  # which says it itself


def test_rank_0_that_fails_is_not_told_of_itself(run):
    run.members[0].fail("the disk is full")
    assert run.news[2].wait().endswith("failed: the disk is full")
    assert run.news[0].reasons == []


def test_the_end_of_rank_0_ends_the_others(run):
    run.coordinator.close()
    assert run.news[1].wait() == run.news[2].wait() == "rank 0, which leads the run, died"


def test_only_the_first_death_counts(run):
    kill(run.members[2])
    first = run.news[0].wait()
    assert run.news[1].wait() == first
    kill(run.members[1])
    assert run.members[0].ask("rank") == [0, None]
    assert run.news[0].reasons == [first]


def test_who_said_goodbye_may_go(run):
    for member in run.members[1:]:
        member.leave()
    run.coordinator.wait_for_goodbyes()
    for member in run.members[1:]:
        kill(member)
    run.members[0].leave()
    run.coordinator.close()
    assert all(news.reasons == [] for news in run.news)


def test_an_error_of_a_handler_ends_the_run_with_its_words(run):
    def refuse(rank: int, value: object) -> None:
        raise OSError("no space left on device")

    run.coordinator.handle({"made": refuse})
    threading.Thread(target=lambda: run.members[1].ask("made"), daemon=True).start()
    assert run.news[0].wait() == "rank 0 could not continue: no space left on device"
    assert run.news[1].wait() == run.news[0].wait()


def test_strangers_are_not_let_in(run):
    with socket.create_connection(("127.0.0.1", run.coordinator.port), timeout=PATIENCE) as stranger:
        stranger.sendall(b'{"token": "guess", "rank": 1, "name": "x"}\n')
        assert stranger.recv(100) == b""
    assert run.members[1].ask("rank") == [1, None]
    assert all(news.reasons == [] for news in run.news)


def test_the_first_address_that_answers_is_taken(run):
    launch = Launch(1, 3, 1, "0")
    port, token = run.coordinator.port, run.coordinator.token
    member = Member(launch, ["no.such.host.invalid", "127.0.0.1"], port, token, run.news[1])
    assert member.ask("rank") == [1, None]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = closed.getsockname()[1]
    with pytest.raises(OSError, match=f"cannot reach rank 0 on port {free} .*is a firewall"):
        Member(launch, ["127.0.0.1"], free, token, run.news[1])
