"""The command: what it refuses, comparing files, and the figures that each part is known by."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from bench.timing import mini, parts
from bench.timing.prompts import measure_prompts
from bench.timing.record import Record, Samples
from opensora.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/benchmark.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_of(milliseconds: float, threads: int = 1) -> Record:
    step = Samples((milliseconds,) * 9, "ms", (10.0,) * 9)
    return Record({"threads": threads}, {"repeats": 9}, {"mini": {"computed_step_ms": step, "cache_bytes": 3}})


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """A run, and one that is 1.5 times slower."""
    paths = tmp_path / "before.json", tmp_path / "after.json"
    for path, milliseconds in zip(paths, (10, 15), strict=True):
        run_of(milliseconds).save(path)
    return tuple(map(str, paths))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--repeats 0", "--repeats is 0; give at least 1"),
        ("--captions -1", "--captions is -1; give at least 1"),
        ("--parts nope", "invalid choice: 'nope'"),
        ("--fail-above 1.1", "--fail-above needs --compare"),
        ("--compare a b --fail-above nan", "--fail-above is nan; give a positive ratio"),
        ("--compare a b c", "--compare takes one or two files, got 3"),
        ("--compare a b --repeats 3", "two files are compared without a run; leave out --repeats"),
        ("--compare a b --no-command", "leave out --no-command"),
        ("--compare a --save a", "--save would overwrite a"),
    ],
)
def test_options_that_make_no_sense_are_refused(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("second", [[], ["nope.json"]])
def test_a_missing_file_is_told_in_one_sentence(script, capsys, tmp_path, second):
    assert script.main(["--compare", str(tmp_path / "nope.json"), *second]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and "No such file" in error


def test_a_file_of_something_else_is_told_in_one_sentence(script, capsys, tmp_path):
    (tmp_path / "trace.json").write_text('{"records": []}')
    assert script.main(["--compare", str(tmp_path / "trace.json")]) == 2
    assert "trace.json is not a benchmark file; give a file that" in capsys.readouterr().err


def test_two_files_are_compared_without_a_run(script, capsys, files, monkeypatch):
    monkeypatch.setattr(parts, "measure", lambda *_: pytest.fail("something was measured"))
    assert script.main(["--compare", *files]) == 0
    text = capsys.readouterr().out
    assert "slower" in text and "1.500" in text and "equal: 1 exact figure" in text


@pytest.mark.parametrize(("limit", "code"), [("1.4", 1), ("1.6", 0)])
def test_the_exit_code_of_a_slower_run_is_asked_for(script, capsys, files, limit, code):
    assert script.main(["--compare", *files, "--fail-above", limit]) == code
    assert ("slower than 1.4 times: mini / computed_step_ms" in capsys.readouterr().err) == bool(code)
    assert script.main(["--compare", *reversed(files), "--fail-above", limit]) == 0


def test_one_file_is_compared_with_a_run_of_its_parts_and_settings(script, capsys, files, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(parts, "measure", lambda *arguments: asked.append(arguments) or run_of(10, threads=2))
    assert script.main(["--compare", files[0]]) == 0
    settings = {"repeats": 9, "captions": 32, "no_command": False}
    assert asked == [(["mini"], settings, None)]
    assert "WARNING threads differs: 1 before, 2 after" in capsys.readouterr().out
    script.main(["--compare", files[0], "--repeats", "3", "--parts", "flops", "--save", str(tmp_path / "now.json")])
    assert asked[1] == (["flops"], {**settings, "repeats": 3}, tmp_path / "now.json")


def test_a_part_that_cannot_be_measured_does_not_take_the_others_along(script, capsys, monkeypatch, tmp_path):

    def task_of(part: str, _: dict):
        def refuse():
            raise ConfigError("there is no compiler")

        return refuse if part == "compile" else lambda: {"held_GB": 0.5}

    monkeypatch.setattr(parts, "task_of", task_of)
    path = tmp_path / "run.json"
    assert script.main(["--parts", "compile", "memory", "--save", str(path)]) == 0
    assert "compile is left out: there is no compiler" in capsys.readouterr().err
    assert Record.load(path).figures == {"memory": {"held_GB": 0.5}}
    assert script.main(["--parts", "compile", "--save", str(path)]) == 2


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
    assert done.returncode == 0 and "--fail-above" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_the_mini_part_measures_and_is_equal_to_itself(script, capsys, monkeypatch, tmp_path):
    """A real run of one turn, but for what takes processes of its own."""

    monkeypatch.setattr(mini, "_processes", lambda turns, command: {"turns": turns, "command": command})
    path = tmp_path / "run.json"
    assert script.main(["--parts", "mini", "--repeats", "1", "--no-command", "--save", str(path)]) == 0
    record = Record.load(path)
    figures = record.figures["mini"]
    assert (figures["turns"], figures["command"]) == (1, False)
    assert {
        "load_s", "first_video_warm_s", "computed_step_ms", "reused_step_ms", "reused_over_computed",
        "video_uncached_s", "video_adacache_s", "speedup", "computed_steps", "one step", "threads",
    } <= set(figures)  # fmt: skip
    assert figures["cache_bytes_adacache"] == 163840
    assert figures["cache_bytes_calibrated"] == 61440  # three outputs, (2, 8, 5, 8, 8) in float32
    assert figures["computed_steps"] == [15]
    step = figures["one step"]
    assert step["reused_ms"].median < step["computed_ms"].median
    assert 0 < step["controller_over_computed"].median < 1
    assert step["controller_over_computed"].yardstick
    assert all(len(value.values) == 1 for value in record.flat().values() if isinstance(value, Samples))
    assert script.main(["--compare", str(path), str(path)]) == 0
    assert "WARNING" not in capsys.readouterr().out


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
