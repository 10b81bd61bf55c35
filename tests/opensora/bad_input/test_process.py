"""What only a process of its own shows: a closed output, a missing home, signals while there is nothing to keep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.command_cases import OUT, ROOT, SMALL, check_kept, check_output, contents

COMMAND = [sys.executable, str(ROOT / "scripts/inference.py"), SMALL]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_a_closed_standard_output_harms_nothing(folder, environment):
    """As behind `| head -0`: the videos are there, and nobody reads of broken pipes."""
    before = contents(folder)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "--prompt", "b"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment
    )
    os.close(writer)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr, done.stderr
    assert done.returncode in (0, 141), (done.returncode, done.stderr)
    check_kept(before, contents(folder))
    check_output(folder / OUT)
    assert (folder / OUT / "sample_0000.png").is_file()


def test_everything_closed_and_no_home(folder, environment):
    environment = {name: value for name, value in environment.items() if name not in ("HOME", "OPENSORA_TEXT_CACHE")}
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "--prompt", "b"], timeout=60, env=environment
    )
    assert done.returncode == 0
    assert (folder / OUT / "sample_0000.png").is_file()
    check_output(folder / OUT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_anything_is_sampled(folder, environment, number, code):
    """The first line of progress is the moment: nothing is sampled yet."""
    before = contents(folder)
    process = subprocess.Popen(
        [*COMMAND, "--prompt", "b"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    line = process.stderr.readline()  # of progress: the models are about to be loaded
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, (line, stderr)
    assert "Traceback" not in stderr, stderr
    check_kept(before, contents(folder))
    check_output(folder / OUT)
