"""The queue and the process that works it off, with a stand-in for the worker that needs no models."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from opensora.errors import ConfigError
from opensora.studio import jobs, worker
from opensora.studio.engine import Engine
from opensora.studio.jobs import JobQueue

WORKER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if "cancel" in message:
        continue
    what = message["arguments"][0]
    def say(event, **about):
        print(json.dumps({"event": event, "job": message["job"], **about}), flush=True)
    say("phase", text="getting ready")
    if what == "crash":
        sys.exit(3)
    if what == "nonsense":
        print("this is no JSON", flush=True)
    if what in ("polite", "deaf"):
        for index in range(3):
            say("step", index=index, num_steps=30, computed=index != 1, preview="data:,x", decoded=True)
        while json.loads(sys.stdin.readline()).get("cancel") != message["job"] or what == "deaf":
            pass
        say("canceled")
    elif what == "late":
        say("phase", text="waiting")
        sys.stdin.readline()
        say("note", text="a word is not known")
        say("done", folder="/somewhere", problems=[])
    elif what == "fail":
        say("failed", text="it cannot be made")
    else:
        say("note", text="a word is not known")
        say("done", folder="/somewhere", problems=[])
"""
GRACE = 0.3
Start = Callable[[], Engine]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Start the engine of one folder, after the one before has ended."""
    engines: list[Engine] = []

    def start_engine() -> Engine:
        for engine in engines:
            engine.close()
        queue = JobQueue(tmp_path / "queue.json")
        engines.append(Engine(queue, tmp_path / "worker.log", [sys.executable, "-c", WORKER], GRACE))
        return engines[-1]

    yield start_engine
    engines[-1].close()


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def ask(engine: Engine, *whats: str) -> list[str]:
    return [engine.submit([what], f"title of {what}").id for what in whats]


def wait_for(engine: Engine, *ids: str) -> list[str]:
    """The statuses of jobs that have ended."""
    wait(lambda: not any(engine.queue.get(id).is_open for id in ids))
    return [engine.queue.get(id).status for id in ids]


def test_a_job_that_fails_crashes_or_talks_nonsense_does_not_stop_the_others(start):
    engine = start()
    ids = ask(engine, "good", "fail", "crash", "good", "nonsense", "good")
    assert wait_for(engine, *ids) == ["done", "failed", "failed", "done", "failed", "done"]
    first, failed, crashed, *_ = map(engine.queue.get, ids)
    assert (first.folder, first.notes) == ("/somewhere", ["a word is not known"])
    assert failed.error == "it cannot be made"
    assert "worker.log" in crashed.error


def test_on_a_full_disk_a_job_ends_and_the_next_one_is_made(start, caplog, monkeypatch):
    engine = start()
    first, second, third = ask(engine, "polite", "fine", "fine")
    wait(lambda: engine.live.job == first and len(engine.live.computed) == 3)
    monkeypatch.setattr(jobs, "atomic_path", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        engine.cancel(third)
    engine.cancel(first)
    assert wait_for(engine, first, second, third) == ["canceled", "failed", "canceled"]
    assert engine.queue.get(second).error == "its state could not be written: no space left on device"
    assert len(caplog.records) < 10
    monkeypatch.undo()
    assert wait_for(engine, *ask(engine, "fine")) == ["done"]


def test_a_job_that_is_done_is_done_even_if_the_disk_is_full_just_then(start, caplog, monkeypatch):
    engine = start()
    engine._grace = 20.0
    [id] = ask(engine, "late")
    wait(lambda: engine.live.phase == "waiting")
    process = engine._process
    monkeypatch.setattr(jobs, "atomic_path", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    engine.cancel(id)  # too late
    assert wait_for(engine, id) == ["done"]
    job = engine.queue.get(id)
    assert (job.folder, job.error, job.notes) == ("/somewhere", None, ["a word is not known"])
    assert sum("the queue of the studio cannot be written" in message for message in caplog.messages) == 2
    monkeypatch.undo()
    assert wait_for(engine, *ask(engine, "fine")) == ["done"]
    assert engine._process is process  # it was not killed


def test_what_a_worker_tells_can_be_watched(start):
    engine = start()
    [id] = ask(engine, "polite")
    wait(lambda: len(engine.live.computed) == 3)
    live = engine.live
    assert (live.job, live.computed, live.num_steps, live.phase) == (id, (True, False, True), 30, "sampling")
    assert (live.preview, live.decoded) == ("data:,x", True)
    engine.cancel(id)
    assert wait_for(engine, id) == ["canceled"]
    wait(lambda: engine.live.job is None)


def test_canceling_takes_jobs_that_wait_that_run_and_that_do_not_listen(start):
    engine = start()
    ids = ask(engine, "deaf", "good", "polite", "good")
    wait(lambda: len(engine.live.computed) == 3)
    for id in (ids[1], ids[0]):
        engine.cancel(id)
    assert wait_for(engine, *ids[:2]) == ["canceled", "canceled"]
    wait(lambda: engine.live.job == ids[2])
    engine.cancel(ids[2])
    assert wait_for(engine, *ids[2:]) == ["canceled", "done"]
    engine.cancel(ids[3])
    engine.cancel("unknown")
    assert engine.queue.get(ids[3]).status == "done"


def test_canceling_a_job_whose_process_is_about_to_start_is_not_lost(start, monkeypatch):
    engine = start()
    begin = engine._running_process

    def begin_late():
        engine.cancel(engine.live.job)
        engine._process.kill()
        engine._process.wait()
        time.sleep(2 * GRACE)
        return begin()

    monkeypatch.setattr(engine, "_running_process", begin_late)
    assert wait_for(engine, *ask(engine, "polite")) == ["canceled"]


def test_a_studio_that_is_started_again_goes_on(start):
    engine = start()
    ids = ask(engine, "good", "polite", "good")
    wait(lambda: engine.live.job == ids[1] and len(engine.live.computed) == 3)
    engine = start()
    assert engine.queue.get(ids[0]).status == "done"
    wait(lambda: engine.live.job == ids[1] and len(engine.live.computed) == 3)
    engine.cancel(ids[1])
    assert wait_for(engine, *ids) == ["done", "canceled", "done"]


def test_what_was_running_when_everything_was_killed_waits(tmp_path):
    queue = JobQueue(tmp_path / "queue.json")
    job = queue.add(["x"], "<b>title</b>")
    queue.change(job.id, status="running")
    [again] = JobQueue(tmp_path / "queue.json").all()
    assert (again.id, again.status, again.title) == (job.id, "waiting", "<b>title</b>")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"jobs": [{"id": "a"}]}', '{"jobs": {"a": 1}}'])
def test_a_damaged_queue_is_moved_aside(tmp_path, text):
    file = tmp_path / "queue.json"
    file.write_text(text)
    queue = JobQueue(file)
    assert queue.all() == []
    assert file.with_suffix(".damaged").read_text() == text
    queue.add(["x"], "title")
    assert len(json.loads(file.read_text())["jobs"]) == 1


def test_the_queue_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_WAITING", 3)
    monkeypatch.setattr(jobs, "MAX_ENDED", 2)
    queue = JobQueue(Path(tmp_path / "queue.json"))
    ids = [queue.add(["x"], "title").id for _ in range(3)]
    with pytest.raises(ConfigError, match="3 jobs are waiting already"):
        queue.add(["x"], "title")
    for id in ids:
        queue.change(id, status="done")
    assert [job.id for job in queue.all()] == ids[1:]
    assert queue.next() is None


def test_the_job_that_ended_last_is_kept_however_long_ago_it_was_added(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_ENDED", 2)
    queue = JobQueue(Path(tmp_path / "queue.json"))
    ids = [queue.add(["x"], "title").id for _ in range(4)]
    for id in (*ids[1:], ids[0]):
        queue.change(id, status="done")
    assert [job.id for job in queue.all()] == [ids[0], ids[3]]
    queue.change(ids[0], notes=["late"])
    latest = queue.add(["x"], "title").id
    assert [job.id for job in JobQueue(Path(tmp_path / "queue.json")).all()] == [ids[0], ids[3], latest]


def test_every_job_begins_with_all_threads(monkeypatch):
    seen = []

    def make(arguments, models):
        seen.append(torch.get_num_threads())
        torch.set_num_threads(1)  # as for a small model
        if len(seen) == 2:
            raise SystemExit
        return {"event": "done"}

    def lines():
        for job in "ab":
            yield json.dumps({"job": job, "arguments": []})
        threading.Event().wait()  # at the end of its input the worker ends the process

    monkeypatch.setattr(worker, "make", make)
    monkeypatch.setattr(logging.getLogger("opensora"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("opensora"), "level", logging.INFO)
    torch.set_num_threads(2)
    with pytest.raises(SystemExit):
        worker.serve(lines(), io.StringIO())
    assert seen == [2, 2]


def test_every_job_that_can_be_canceled_is_listed_beside_the_latest(tmp_path):
    queue = JobQueue(tmp_path / "jobs.json")
    ids = [queue.add(["x"], f"job {number}").id for number in range(6)]
    for id in ids[1:4]:
        queue.change(id, status="done")
    assert [job.title for job in queue.open_or_latest(3)] == ["job 0", "job 3", "job 4", "job 5"]
