"""The command: what it refuses, its file, and the figures that each part is known by."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.timing import mini, models, parts
from bench.timing.prompts import measure_prompts
from bench.timing.turns import Samples
from opensora.errors import ConfigError
from support import small_model

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/benchmark.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats 0", "--repeats is 0; give at least 1"),
        ("--captions -1", "--captions is -1; give at least 1"),
        ("--parts nope", "invalid choice: 'nope'"),
    ],
)
def test_options_that_make_no_sense_are_refused(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_that_cannot_be_measured_does_not_take_the_others_along(script, capsys, monkeypatch, tmp_path):

    def task_of(part: str, _: object):
        def refuse():
            raise ConfigError("there is no compiler")

        return refuse if part == "compile" else lambda: {"held_GB": 0.5}

    monkeypatch.setattr(parts, "task_of", task_of)
    path = tmp_path / "run.json"
    assert script.main(["--parts", "compile", "memory", "--save", str(path)]) == 0
    assert "compile is left out: there is no compiler" in capsys.readouterr().err
    assert json.loads(path.read_text())["figures"] == {"memory": {"held_GB": 0.5}}
    assert script.main(["--parts", "compile", "--save", str(path)]) == 2
    capsys.readouterr()
    assert script.main(["--parts", "memory", "--save", str(path / "run.json")]) == 2
    assert str(path) in (refusal := capsys.readouterr()).err and "--save" in refusal.err and not refusal.out
    assert script.main(["--parts", "memory", "--save", str(tmp_path)]) == 2
    assert f"--save {tmp_path} is a folder; name a file in it" in capsys.readouterr().err


def test_figures_are_printed_with_their_spread():
    text = parts.figures_text(
        "part", {"step_ms": Samples((1.0, 2.0, 3.0, 4.0, 5.0), "ms"), "once_s": Samples((2.5,)), "n": {"b": 7}}
    )
    step, once, nested, count = text.splitlines()[1:]
    assert step.split() == ["step_ms", "3", "quartiles", "2", "to", "4,", "n", "=", "5"]
    assert once.split() == ["once_s", "2.5"]
    assert (nested, count.split()) == ("  n", ["b", "7"])


def test_help_answers_without_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['benchmark.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--no-command" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_the_mini_part_measures(script, monkeypatch, tmp_path):
    """A real run of one turn, but for what takes processes of its own."""
    monkeypatch.setattr(models, "CONFIG", small_model.ADACACHE)
    monkeypatch.setattr(mini, "CALIBRATED_CONFIG", small_model.CALIBRATED)
    monkeypatch.setattr(mini, "_processes", lambda turns, command: {"turns": turns, "command": command})
    path = tmp_path / "run.json"
    assert script.main(["--parts", "mini", "--repeats", "1", "--no-command", "--save", str(path)]) == 0
    record = json.loads(path.read_text())
    assert {"cpu", "threads", "torch", "commit", "dirty", "date"} <= set(record["machine"])
    figures = record["figures"]["mini"]
    assert (figures["turns"], figures["command"]) == (1, False)
    assert {
        "load_s", "first_video_warm_s", "computed_step_ms", "reused_step_ms", "reused_over_computed",
        "video_uncached_s", "video_adacache_s", "speedup", "computed_steps", "one step", "threads",
    } <= set(figures)  # fmt: skip
    assert figures["cache_bytes_adacache"] == 163840
    assert figures["cache_bytes_calibrated"] == 61440  # three outputs, (2, 8, 5, 8, 8) in float32
    assert figures["computed_steps"] == [15]
    step = figures["one step"]
    assert step["reused_ms"]["median"] < step["computed_ms"]["median"]
    assert 0 < step["controller_over_computed"]["median"] < 1
    assert all(len(value["samples"]) == 1 for value in step.values())


def test_long_runs_are_measured_without_a_model():
    figures = measure_prompts(counts=(3, 200))
    assert list(figures) == ["3 prompts", "200 prompts"]
    assert all(set(found) == {"start_s", "sample_ms", "end_s", "memory_MB"} for found in figures.values())


@pytest.mark.slow
def test_a_process_tells_when_it_reached_its_first_frame():
    from bench.timing.models import STAGES, run_process

    reached = run_process()
    assert tuple(reached) == STAGES
    assert 0 < reached["imported"] < reached["loaded"] < reached["decoded"]
