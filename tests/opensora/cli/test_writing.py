"""The thread that writes: order, errors and interrupts, with jobs that write nothing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from opensora.cli.writing import BackgroundWriter


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """Ctrl+C interrupts, also where tests run in the background of a shell, which turns it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    """Ctrl+C, for a job to press."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def thread() -> threading.Thread:
    return threading.current_thread()


def failing(error: Exception) -> None:
    raise error


def test_jobs_run_in_order_in_one_thread_that_is_gone_in_the_end():
    done = []
    with BackgroundWriter() as writer:
        for name in "abc":
            writer.begin([lambda name=name, part=part: done.append((name, part, thread())) for part in (0, 1)])
    assert [item[:2] for item in done] == [(name, part) for name in "abc" for part in (0, 1)]
    [writing] = {item[2] for item in done}
    assert writing is not threading.main_thread() and not writing.is_alive()


def test_a_batch_is_waited_for_when_the_next_one_is_there():
    done, go_on = [], threading.Event()
    with BackgroundWriter() as writer:
        writer.begin([lambda: done.append(go_on.wait(30))])
        assert done == []
        go_on.set()
        writer.begin([])
        assert done == [True]


def test_of_several_errors_the_first_goes_on_and_the_others_are_said(caplog):
    done, first = [], ValueError("first")
    with pytest.raises(ValueError, match="first") as caught, BackgroundWriter() as writer:
        writer.begin([lambda: failing(first), lambda: done.append("b"), lambda: failing(TypeError("second"))])
    assert caught.value is first
    assert done == ["b"]
    assert caplog.messages == ["WARNING a sample could not be written: second"]
    assert "TypeError" in caplog.text  # the trace of a bug


def test_an_error_comes_before_another_batch_is_sampled_and_the_jobs_that_wait_are_done():
    done = []
    with pytest.raises(OSError, match="the disk"), BackgroundWriter() as writer:
        writer.begin([lambda: failing(OSError("the disk is full"))])
        writer.begin([lambda: done.append("b")])
        raise AssertionError("the next batch is not to be sampled")
    assert done == ["b"]


def test_an_interrupt_while_jobs_are_waited_for_loses_none_of_them():
    done = []

    def interrupted():
        time.sleep(0.05)  # until the other thread waits
        interrupt()
        time.sleep(0.05)
        done.append("a")

    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as writer:
        writer.begin([interrupted])
        writer.begin([lambda: done.append("b")])  # sampled already, and to wait for the former batch
        raise AssertionError("the next batch is not to be sampled")
    assert done == ["a", "b"]


def test_a_second_interrupt_leaves_out_what_has_not_begun():
    done = []

    def interrupted():
        time.sleep(0.05)
        interrupt()
        time.sleep(0.05)
        done.append("a")

    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as writer:
        writer.begin([interrupted, lambda: done.append("b")])
        raise KeyboardInterrupt
    assert done == ["a"]
