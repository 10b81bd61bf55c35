"""Runs the sampling command in this process, in a folder where an earlier run has finished."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.inference import main
from support.command_cases import OUT, SMALL, Case, Outcome, check, contents, prepare_folder

TIME_LIMIT = 30  # seconds of a case, after which it hangs


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The output folder of a run that is over."""
    folder = tmp_path_factory.mktemp("finished")
    prepare_folder(folder, None)
    with pytest.MonkeyPatch.context() as patch, process_restored():
        patch.chdir(folder)
        assert main([SMALL, "--verbose", "0"]) == 0
    return folder / OUT


@pytest.fixture
def folder(tmp_path, monkeypatch, finished) -> Path:
    """The working directory."""
    prepare_folder(tmp_path, finished)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, capsys, caplog) -> Iterator[Callable[[Sequence[str]], Outcome]]:
    """Run the command."""

    def run_command(arguments: Sequence[str]) -> Outcome:
        capsys.readouterr()
        caplog.clear()
        signal.alarm(TIME_LIMIT)
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
        finally:
            signal.alarm(0)
        stdout, stderr = capsys.readouterr()
        return Outcome(code, stdout, stderr, caplog.text)

    with process_restored():
        signal.signal(signal.SIGALRM, _hangs)
        yield run_command


@pytest.fixture
def check_case(run, folder) -> Callable[[Case], Outcome]:
    """Run a case and check everything that has to hold."""

    def run_case(case: Case) -> Outcome:
        case.given(folder)
        before = contents(folder)
        outcome = run(case.command())
        check(case, outcome, before, folder)
        return outcome

    return run_case


@contextmanager
def process_restored() -> Iterator[None]:
    """What the command sets for its process is put back afterwards."""
    levels = {name: logging.getLogger(name).level for name in ("opensora", "adacache")}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _hangs(*_: object) -> None:
    raise AssertionError(f"no answer within {TIME_LIMIT} s")
