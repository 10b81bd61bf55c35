"""Files are written beside the sampling of the next batch: their order, their frames' memory, and their errors."""

from __future__ import annotations

import errno
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from opensora.cli import command, worker
from opensora.cli.ledger import Ledger
from opensora.cli.records import wanted_files
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 30.0  # seconds; a wait that comes to its end is a failure


@pytest.fixture
def writing(monkeypatch):
    """Call ``before`` with the stem, in the thread that writes, before the files of each sample are written."""
    write = worker.write_sample

    def change(before: Callable[[str], None]) -> None:
        def changed(folder, sample, **what):
            before(sample.stem)
            return write(folder, sample, **what)

        monkeypatch.setattr(worker, "write_sample", changed)

    return change


def test_a_batch_is_sampled_while_the_files_of_the_former_one_are_written(run, writing, caplog):
    sampling = {prompt: threading.Event() for prompt in "abcd"}
    next_prompt = {"sample_0000": "c", "sample_0001": "c"}
    overlapped = []

    def before(stem):
        if stem in next_prompt:
            overlapped.append(sampling[next_prompt[stem]].wait(PATIENCE))

    writing(before)
    caplog.set_level(logging.INFO)
    prompts = ["a", "b", "c", "d"]
    done = run(prompt=prompts, batch_size=2, begun=lambda prompts: [sampling[prompt].set() for prompt in prompts])
    assert done.error is None and overlapped == [True, True]
    wrote = [record.getMessage() for record in caplog.records if record.getMessage().startswith("wrote ")]
    assert wrote == [f"wrote {done.folder / f'sample_000{i}.mp4'}" for i in range(4)]
    assert list(done.statuses().values()) == ["done"] * 4
    assert [result.seconds for result in done.results] == [3.0] * 4


def test_a_sample_is_entered_once_its_files_are_complete_and_before_the_next_batch_is_sampled(run, monkeypatch):
    finish, entered, in_time = Ledger.finish, [], []
    config = command.prepare(str(ROOT / small_model.ADACACHE), {"prompt": ["a"]}, {}).config
    first_entered = threading.Event()

    def checked(ledger, stem, files, seconds):
        there = {path.name for path in ledger.folder.iterdir()}
        entered.append((stem, set(wanted_files(stem, config)) <= there))
        finish(ledger, stem, files, seconds)
        first_entered.set()

    monkeypatch.setattr(Ledger, "finish", checked)
    run("sample_adacache", begun=lambda prompts: prompts == ["b"] and in_time.append(first_entered.wait(PATIENCE)))
    assert entered == [(f"sample_000{i}", True) for i in range(3)]
    assert in_time == [True]


def test_the_frames_of_one_batch_wait_while_another_is_sampled_and_not_more(run, monkeypatch):
    sample, frames, held = worker.Worker._sample_or_split, [], []

    def watched(worker, batch):
        held.append(sum(reference() is not None for reference in frames))
        made = sample(worker, batch)
        frames.extend(weakref.ref(write.keywords["frames"]) for write in made.values())
        return made

    monkeypatch.setattr(worker.Worker, "_sample_or_split", watched)
    done = run(prompt=list("abcdefgh"), batch_size=2)
    assert done.error is None and len(held) == 4
    assert held[0] == 0 and max(held) <= 2
    assert not any(reference() is not None for reference in frames)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), TypeError("bug")])
@pytest.mark.parametrize("stem", ["sample_0001", "sample_0003"])
def test_an_error_of_writing_ends_the_run_and_the_others_are_kept(run, writing, error, stem):
    def before(written):
        if written == stem:
            raise error

    writing(before)
    prompts = ["a", "b", "c", "d"]
    first = run(prompt=prompts, batch_size=2)
    assert first.error is error
    assert first.statuses() == {f"sample_000{i}": "done" for i in range(4)} | {stem: "waiting"}
    assert first.manifest()["runs"][-1]["outcome"] == f"error: {error}"
    writing(lambda written: None)
    second = run(prompt=prompts, batch_size=2)
    assert [sampled for sampled, _ in second.calls] == [["a", "b"] if stem == "sample_0001" else ["c", "d"]]
    assert list(second.statuses().values()) == ["done"] * 4


def test_no_batch_is_begun_after_an_error_of_writing(run, writing):
    def before(written):
        raise OSError(errno.ENOSPC, "No space left on device")

    writing(before)
    done = run(prompt=["a", "b", "c", "d"])
    assert isinstance(done.error, OSError)
    assert [prompts for prompts, _ in done.calls] == [["a"], ["b"]]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("bug"), OSError(errno.EIO, "Input/output error")])
def test_what_is_being_written_when_sampling_ends_early_is_kept(run, writing, error):
    sampling = threading.Event()
    waited = []
    writing(lambda stem: waited.append(sampling.wait(PATIENCE)))
    errors = {"c": error}
    done = run(prompt=["a", "b", "c"], batch_size=2, errors=errors, begun=lambda p: "c" in p and sampling.set())
    assert waited == [True, True] and list(done.manifest()["samples"]) == [f"sample_000{i}" for i in range(3)]
    assert done.error is error
    assert done.statuses() == {"sample_0000": "done", "sample_0001": "done", "sample_0002": "waiting"}
    assert [result.video.name for result in done.results] == ["sample_0000.mp4", "sample_0001.mp4"]


def test_an_interrupt_goes_on_and_an_error_of_writing_that_comes_then_is_said(run, writing, caplog):
    def before(written):
        raise OSError(errno.ENOSPC, "No space left on device")

    writing(before)
    done = run(errors={"b": KeyboardInterrupt()})
    assert isinstance(done.error, KeyboardInterrupt)
    assert done.statuses()["sample_0000"] == "waiting"
    assert "WARNING a sample could not be written: No space left on device" in caplog.messages
