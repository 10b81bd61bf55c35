"""What only a process of its own shows: that torch is not imported for a mistake, a closed output, and a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from support.command_cases import OUT, ROOT, SMALL, check_kept, check_output, contents

COMMAND = [sys.executable, str(ROOT / "scripts/inference.py")]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([SMALL, "--num-frame", "3"], "did you mean '--num-frames'"),
        ([SMALL, "--cfg-options", "sheduler.cfg_scale=3"], "did you mean 'scheduler'"),
        (["configs/sample.py"], "OpenSora-STDiT-v3"),  # weights that cannot be fetched
    ],
)
def test_torch_is_not_imported_for_a_mistake(folder, environment, arguments, said):
    """It would cost more than a second, so a stand-in forbids it."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text("raise SystemExit('torch was imported')\n")
    environment |= {"PYTHONPATH": str(folder), "HF_HOME": str(folder / "hub")}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=20, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr


def test_a_closed_standard_output_harms_nothing(folder, environment):
    """As behind `| head -0`, and without a home: the videos are there, and nobody reads of broken pipes."""
    del environment["OPENSORA_TEXT_CACHE"]
    environment["HOME"] = "/nowhere"
    before = contents(folder)
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, SMALL, "--prompt", "b"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writer)
    assert not any(word in done.stderr for word in ("Traceback", "error", "Exception")), done.stderr
    assert done.returncode == 141, done.stderr
    check_kept(before, contents(folder))
    check_output(folder / OUT)
    assert (folder / OUT / "sample_0000.png").is_file()


def test_a_signal_before_anything_is_sampled(folder, run, monkeypatch):
    """When models are about to be loaded."""
    before = contents(folder)
    monkeypatch.setattr("opensora.cli.run.check_machine", lambda plan: os.kill(os.getpid(), signal.SIGTERM))
    outcome = run([SMALL, "--prompt", "b"])
    assert outcome.code == 143
    assert outcome.stderr == "terminated; what is finished is kept, and the same command continues\n"
    assert outcome.stdout == ""
    check_kept(before, contents(folder))
