"""How a command ends: its exit code, and the one sentence about it."""

from __future__ import annotations

import errno

import pytest

from opensora.errors import KEPT, ConfigError, Terminated, run_command

FULL = OSError(errno.ENOSPC, "No space left on device", "results.json")


@pytest.mark.parametrize(
    ("error", "code", "sentence", "resumed"),
    [
        (KeyboardInterrupt(), 130, "interrupted", True),
        (Terminated(), 143, "terminated", True),
        (FULL, 2, "error: results.json: No space left on device", True),
        (ConfigError("seed is 'x'; use a number"), 2, "error: seed is 'x'; use a number", False),
        (MemoryError(), 2, "error: the device ran out of memory; set low_memory = True (--low-memory), a", False),
    ],
)
@pytest.mark.parametrize("resumes", [False, True])
def test_only_a_command_that_goes_on_promises_to(error, code, sentence, resumed, resumes, capsys):
    def task() -> int:
        raise error

    assert run_command(task, resumes=resumes) == code
    said = capsys.readouterr().err
    assert said.startswith(sentence) and said.count("\n") == 1
    assert (KEPT in said) == (resumes and resumed)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="of another kind"):
        run_command(lambda: (_ for _ in ()).throw(RuntimeError("of another kind")))
