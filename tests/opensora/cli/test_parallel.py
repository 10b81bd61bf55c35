"""What a process checks before it works on rank 0's plan, and what processes that share a video agree on."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from opensora.acceleration.launch import Launch
from opensora.cli import command, handout, parallel
from opensora.cli.arrangement import mesh_of
from opensora.cli.make import Failure, Maker
from opensora.cli.shared_plan import plan_of, read_plan
from opensora.cli.worker import Made, NotMade
from opensora.errors import ConfigError, WeightsError
from tests.support import torchrun

CONFIG = torchrun.ROOT / "configs/mini/sample_adacache.py"


@pytest.fixture
def follower():
    """Rank 1 of two, which waits for nothing."""
    return SimpleNamespace(launch=Launch(1, 2, 1, "0"), member=SimpleNamespace(wait=lambda name: None))


@pytest.fixture
def prepared(tmp_path):
    return command.prepare(str(CONFIG), {"prompt": ["a", "b", "c"], "batch_size": 2, "save_dir": str(tmp_path)}, {})


@pytest.fixture
def session(prepared):
    with prepared.open_session() as session:
        session.begin([])
        yield session


def test_a_plan_says_all_that_the_others_cannot_know(session, prepared, follower):
    task = session.task()
    shape = mesh_of(session, 4)
    assert str(shape) == "data 2 x guidance 2 x sequence 1"
    plan = plan_of(task, shape)
    assert read_plan(plan, prepared, follower) == task


def test_a_folder_that_is_not_shared_is_refused(session, prepared, follower, tmp_path):
    plan = plan_of(session.task(), mesh_of(session, 2)) | {"folder": str(tmp_path / "elsewhere")}
    with pytest.raises(ConfigError, match="rank 1 .* does not see the output folder .*elsewhere of rank 0"):
        read_plan(plan, prepared, follower)


def test_other_weights_than_those_of_rank_0_are_refused(session, prepared, follower):
    plan = plan_of(session.task(), mesh_of(session, 2))
    plan["fingerprints"]["vae"] = "another"
    with pytest.raises(WeightsError, match="the vae weights of rank 1 .* are not those of rank 0"):
        read_plan(plan, prepared, follower)


def test_a_group_is_given_each_batch_once_however_many_of_it_ask(session):
    task = session.task()
    ask = handout.Handout(session, task).handlers["next"]
    assert [ask(0, [0, 0]), ask(1, [0, 0]), ask(2, [1, 0])] == [0, 0, 1]
    assert session.ledger.entries["sample_0002"].status == "running"
    assert [ask(1, [0, 1]), ask(0, [0, 1]), ask(2, [1, 1])] == [None, None, None]


def test_files_that_rank_0_cannot_read_fail_their_sample(session, monkeypatch):
    monkeypatch.setattr(handout, "FILES_SECONDS", 0.0)
    handlers = handout.Handout(session, session.task()).handlers
    handlers["next"](0, [0, 0])
    handlers["made"](1, "sample_0000")
    assert "rank 1 wrote files that rank 0 cannot read" in session.failed["sample_0000"]
    handlers["not made"](1, ["sample_0001", "NaN"])
    assert session.failed["sample_0001"] == "NaN"


def test_files_of_another_machine_may_take_a_while_to_be_seen(tmp_path):
    (tmp_path / "a").touch()
    later = threading.Timer(0.3, (tmp_path / "b").touch)
    later.start()
    assert handout._are_there(tmp_path, ["a", "b"])
    later.join()


def test_a_sample_that_another_process_cannot_read_is_not_sampled_here(prepared):
    a, b, _ = prepared.samples
    sampled = []
    group = SimpleNamespace(agree=lambda problems: {**problems, a.stem: "it is damaged"}, video=object())
    output = SimpleNamespace(videos=["frames"], traces=[None], later_traces=[], seconds=1.0)

    def pipe(prompts, **arguments):
        sampled.append(prompts)
        return output

    pipe.group = group
    texts = {sample.stem: sample.prompt.text for sample in (a, b)}
    maker = Maker(pipe, a.config, texts, {a.stem: ["a"], b.stem: ["b"]}, meter=None)
    made = maker.make([a, b])
    assert sampled == [["b"]]
    assert made[a.stem] == Failure("it is damaged")
    assert made[b.stem].frames == "frames"


def test_a_sample_is_reported_while_the_next_batch_is_sampled(session, monkeypatch):
    a, b, c = session.samples
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

        def make(self, batch):
            assert a in batch or reported.wait(30)
            made = [NotMade(s, "NaN") if s is c else Made(s, None, (), 1.0, [None], None) for s in batch]
            return [lambda made=made: made for made in made]

    monkeypatch.setattr(parallel, "Worker", FakeWorker)
    monkeypatch.setattr(parallel, "cache_folder", lambda setting: None)
    group = SimpleNamespace(index=0)
    member = SimpleNamespace(ask=ask)
    processes = SimpleNamespace(launch=Launch(0, 2, 0, "0"), member=member, arrange=lambda shape: group)
    parallel._make_batches(processes, session.task(), mesh_of(session, 2))
    assert [item for item in asked if item[0] != "next"] == [
        ("made", a.stem), ("made", b.stem), ("not made", [c.stem, "NaN"]),
    ]  # fmt: skip


def test_a_process_of_a_machine_without_pyav_does_not_load_anything(session, prepared, follower, monkeypatch):
    plan = plan_of(session.task(), mesh_of(session, 2))
    follower.member.wait = lambda name: plan
    monkeypatch.setattr(parallel, "_work", lambda *arguments: pytest.fail("it was begun"))
    monkeypatch.setitem(sys.modules, "av", None)  # which makes the import fail
    with pytest.raises(ConfigError, match="install it with pip install av"):
        parallel._follow(follower, prepared)
