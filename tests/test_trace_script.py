"""scripts/trace.py: looking at recorded runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adacache import StepRecord, Trace
from opensora.errors import EXIT_PIPE

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/trace.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def traces(tmp_path) -> tuple[Path, Path]:
    """Two runs of four steps: # # . # and # # # #; the second measured 0.1 more."""
    for name, computed, distance in (("a", (0, 1, 3), 0.2), ("b", (0, 1, 2, 3), 0.3)):
        records = [
            StepRecord(i, 1000.0 - 250 * i, i in computed, distance=distance if i == 1 else None, milliseconds=2.0)
            for i in range(4)
        ]
        Trace(4, records, {"prompt": "a still red star"}).save(tmp_path / f"{name}.json")
    return tmp_path / "a.json", tmp_path / "b.json"


def test_show_prints_every_step_and_the_schedule(traces):
    done = run("show", traces[0])
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[2].split() == ["2", "750.0", "computed", "0.2000", "-", "-", "-", "-", "2.0"]
    assert lines[3].split()[:3] == ["3", "500.0", "reused"]
    assert lines[5] == "##.#  3 of 4 steps computed"
    assert lines[-1].startswith("steps are counted from 1 here, and from 0 in lists")


def test_a_reader_that_leaves_is_no_error(traces):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, SCRIPT, "show", traces[0]], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (EXIT_PIPE, b"")


def test_diff_names_the_steps_that_differ(traces):
    lines = run("diff", *traces).stdout.splitlines()
    assert lines[0].startswith("##.#  3 computed")
    assert lines[1].startswith("####  4 computed")
    assert lines[2:] == [
        "computed in the first only: none",
        "computed in the second only: 3",
        "distances measured in both: 1, largest difference 0.1000",
    ]


def test_plot_draws_beside_the_trace_or_where_told(traces, tmp_path):
    assert run("plot", traces[0]).stdout.strip() == f"wrote {tmp_path / 'a.plot.png'}"
    assert (tmp_path / "a.plot.png").stat().st_size > 1000
    assert run("plot", traces[0], "--output", tmp_path / "x.svg").returncode == 0
    assert (tmp_path / "x.svg").read_text().lstrip().startswith("<?xml")


def test_mistakes_are_told_in_one_line(traces, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    Trace(2, [StepRecord(0, None, True)]).save(tmp_path / "short.json")
    for arguments, message in [
        (("show", tmp_path / "none.json"), "No such file"),
        (("show", tmp_path / "other.json"), "holds no trace"),
        (("diff", traces[0], tmp_path / "short.json"), "compare runs of one length"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert message in done.stderr


def test_metadata_of_another_kind_is_left_aside(tmp_path):
    Trace(1, [StepRecord(0, 1000.0, True)], {"config": ["x"], "loop": "x"}).save(tmp_path / "a.json")
    assert run("show", tmp_path / "a.json").returncode == run("plot", tmp_path / "a.json").returncode == 0


def test_show_tells_where_frames_joined(tmp_path):
    records = [StepRecord(0, None, True), StepRecord(1, None, False), StepRecord(2, None, True, joined=True)]
    Trace(3, records).save(tmp_path / "a.json")
    lines = run("show", tmp_path / "a.json").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:4]] == ["computed", "reused", "joined"]
