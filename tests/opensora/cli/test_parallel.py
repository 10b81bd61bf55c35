"""What a process checks before it works on rank 0's plan, and what processes that share a video agree on."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from opensora.acceleration.launch import Launch
from opensora.cli import command, parallel
from opensora.cli.parallel import answers, mesh_of, message_of, receive
from opensora.cli.session import open_session
from opensora.cli.worker import Worker
from opensora.errors import ConfigError, WeightsError
from support import small_model
from tests.support import torchrun

CONFIG = torchrun.ROOT / small_model.ADACACHE


@pytest.fixture
def follower():
    """Rank 1 of two, which waits for nothing."""
    return SimpleNamespace(launch=Launch(1, 2, 1, "0"), member=SimpleNamespace(wait=lambda name: None))


@pytest.fixture
def read(tmp_path):
    """What any process reads of the command line."""
    flags = {"prompt": ["a", "b", "c"], "batch_size": 2, "save_dir": str(tmp_path)}
    return lambda: command.prepare(str(CONFIG), flags, {})


@pytest.fixture
def session(read):
    with open_session(read()) as session:
        session.begin([])
        yield session


def test_a_message_says_all_that_the_others_cannot_know(session, read, follower):
    session.plan.samples[0].is_due, session.plan.samples[1].refined = False, "a blue star"
    shape = mesh_of(session.plan, 4)
    assert str(shape) == "data 2 x guidance 2 x sequence 1"
    theirs = read()
    receive(message_of(session.plan, shape), theirs, follower)
    for sample in session.plan.samples:
        sample.identity = ""  # which only the ledger needs
    assert theirs == session.plan and theirs.due_batches == session.plan.due_batches


def test_a_folder_that_is_not_shared_is_refused(session, read, follower, tmp_path):
    message = message_of(session.plan, mesh_of(session.plan, 2)) | {"folder": str(tmp_path / "elsewhere")}
    with pytest.raises(ConfigError, match="rank 1 .* does not see the output folder .*elsewhere of rank 0"):
        receive(message, read(), follower)


def test_other_weights_than_those_of_rank_0_are_refused(session, read, follower):
    message = message_of(session.plan, mesh_of(session.plan, 2))
    message["fingerprints"]["vae"] = "another"
    with pytest.raises(WeightsError, match="the vae weights of rank 1 .* are not those of rank 0"):
        receive(message, read(), follower)


def test_a_stream_in_a_config_is_refused_where_several_processes_would_read_it(tmp_path, monkeypatch):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = [{str(CONFIG)!r}]\nprompt_path = '-'\n")
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="prompt_path is '-', .* give it as the flag --prompt-path -, which rank 0"):
        command.prepare(str(config), {}, {})
    plan = command.prepare(str(config), {}, {}, "a cat\na dog\n")  # as if it was given as a flag
    assert [sample.prompt for sample in plan.samples] == ["a cat", "a dog"]


def test_a_group_is_given_each_batch_once_however_many_of_it_ask(session):
    ask = answers(session)["next"]
    assert [ask(0, [0, 0]), ask(1, [0, 0]), ask(2, [1, 0])] == [0, 0, 1]
    assert session.ledger.get("sample_0002").status == "running"
    assert [ask(1, [0, 1]), ask(0, [0, 1]), ask(2, [1, 1])] == [None, None, None]


def test_files_that_rank_0_cannot_read_fail_their_sample(session, monkeypatch):
    monkeypatch.setattr(parallel, "FILES_SECONDS", 0.0)
    handlers = answers(session)
    handlers["next"](0, [0, 0])
    handlers["made"](1, "sample_0000")
    handlers["not made"](1, ["sample_0001", "NaN"])
    first, second = session.failed
    assert "rank 1 wrote files that rank 0 cannot read" in first.problem
    assert (second.stem, second.problem) == ("sample_0001", "NaN")


def test_files_of_another_machine_may_take_a_while_to_be_seen(tmp_path):
    (tmp_path / "a").touch()
    later = threading.Timer(0.3, (tmp_path / "b").touch)
    later.start()
    assert parallel._are_there(tmp_path, ["a", "b"])
    later.join()


def test_a_sample_that_another_process_cannot_read_is_not_sampled_here(session):
    a, b, _ = session.plan.samples
    sampled = []
    output = SimpleNamespace(videos=["frames"], traces=[None], later_traces=[], seconds=1.0)
    worker = Worker.__new__(Worker)  # without models
    worker._plan, worker._meter, worker._progress = session.plan, None, None
    worker._pipe = lambda prompts, **arguments: sampled.append(prompts) or output
    worker._group = SimpleNamespace(agree=lambda problems: {**problems, a.stem: "it is damaged"}, video=object())
    made = worker._sample_or_split([a, b])
    assert sampled == [["b"]]
    assert made[a.stem] == "it is damaged"
    assert made[b.stem].keywords["frames"] == "frames"


def test_a_sample_is_reported_while_the_next_batch_is_sampled(session, monkeypatch):
    a, b, c = session.plan.samples
    asked, reported = [], threading.Event()

    def ask(name, value):
        asked.append((name, value))
        if name == "next":
            return value[1] if value[1] < 2 else None
        if value == b.stem:
            reported.set()

    class FakeWorker:
        memory_line = None

        def __init__(self, *arguments):
            pass

        def sample(self, batch):
            assert a in batch or reported.wait(30)
            return [(sample, "NaN" if sample is c else lambda: None) for sample in batch]

    monkeypatch.setattr(parallel, "Worker", FakeWorker)
    monkeypatch.setattr(parallel, "cache_folder", lambda setting: None)
    group = SimpleNamespace(index=0)
    member = SimpleNamespace(ask=ask)
    processes = SimpleNamespace(launch=Launch(0, 2, 0, "0"), member=member, arrange=lambda shape: group)
    parallel._make_batches(processes, session.plan, mesh_of(session.plan, 2))
    assert [item for item in asked if item[0] != "next"] == [
        ("made", a.stem), ("made", b.stem), ("not made", [c.stem, "NaN"]),
    ]  # fmt: skip


def test_a_process_of_a_machine_without_pyav_does_not_load_anything(session, read, follower, monkeypatch):
    message = message_of(session.plan, mesh_of(session.plan, 2))
    follower.member.wait = lambda name: message
    monkeypatch.setattr(parallel, "_work", lambda *arguments: pytest.fail("it was begun"))
    monkeypatch.setitem(sys.modules, "av", None)  # which makes the import fail
    with pytest.raises(ConfigError, match="install it with pip install av"):
        parallel._follow(follower, read())
