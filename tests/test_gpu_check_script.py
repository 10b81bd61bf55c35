"""scripts/gpu_check.py: every section runs at tiny size on the CPU, and fails alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import correctness
from bench.gpu.report import Check, Section
from opensora.files import REPO_ROOT
from opensora.models.stdit import STDiT3
from scripts import gpu_check


def figures(folder: Path) -> list[dict]:
    """What a check wrote."""
    return [json.loads(line) for line in (folder / "gpu_check.jsonl").read_text().splitlines()]


def test_every_section_runs_dry(tmp_path):
    command = [sys.executable, REPO_ROOT / "scripts/gpu_check.py", "--dry", "--out", tmp_path]
    # Machines with a GPU may lack what the check has no use for.
    without = tmp_path / "without"
    without.mkdir()
    for package in ("av", "colossalai", "altair", "pandas", "vl_convert"):
        (without / f"{package}.py").write_text(f"raise ModuleNotFoundError('{package}', name='{package}')")
    environment = {**os.environ, "PYTHONPATH": str(without)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all sections are right\n")
    written = figures(tmp_path)
    assert {entry["section"] for entry in written} == set(gpu_check.SECTIONS)
    assert not [entry for entry in written if entry.get("right") is False or entry["what"] in ("failed", "not run")]
    right = [entry for entry in written if entry.get("right")]
    assert len(right) > 10
    assert all(entry["value"] <= entry["limit"] for entry in right)


def test_a_section_fails_alone_and_what_was_measured_stays(tmp_path, capsys):
    check = Check(tmp_path, torch.device("cpu"), deadline=60.0)

    def broken(check: Check) -> None:
        check.figure("before", 1.0, "ms")
        raise RuntimeError("no such kernel\nand more")

    def off(check: Check) -> None:
        check.error("close", 0.1, limit=0.2)
        check.error("far", float("nan"), limit=0.2)

    def fine(check: Check) -> None:
        check.figure("after", 2.0, "ms")

    check.run([Section("broken", broken, 1.0), Section("off", off, 1.0), Section("fine", fine, 1.0)])
    assert check.failed == ["broken", "off"]
    said = [(entry["section"], entry["what"], entry["value"]) for entry in figures(tmp_path)]
    assert ("broken", "before", 1.0) in said
    assert ("broken", "failed", "RuntimeError: no such kernel") in said
    assert ("fine", "after", 2.0) in said


def test_a_second_check_keeps_the_figures_of_the_first(tmp_path):
    for value in (1.0, 2.0, 3.0):
        check = Check(tmp_path, torch.device("cpu"), deadline=60.0)
        check.run([Section("one", lambda check, value=value: check.figure("it", value, "ms"), 1.0)])
    kept = [(tmp_path / f"gpu_check{end}.jsonl").read_text() for end in ("-1", "-2", "")]
    assert [json.loads(text.splitlines()[0])["value"] for text in kept] == [1.0, 2.0, 3.0]


def test_what_would_pass_the_deadline_is_not_begun(tmp_path):
    check = Check(tmp_path, torch.device("cpu"), deadline=5.0)
    check.tiny = False
    check.run([Section("long", lambda _: pytest.fail("it was begun"), 60.0)])
    assert figures(tmp_path)[0]["what"] == "not run"
    assert figures(tmp_path)[0]["value"] == "it needs 60 s, and 5 s are left"
    assert not check.failed
    assert check.verdict() == "not run: long"
    check.failed.append("steps")
    assert check.verdict() == "not right: steps; not run: long"


@torch.no_grad()
def test_nan_in_some_of_many_cases_is_not_right(tmp_path, monkeypatch):
    plain = STDiT3.forward
    monkeypatch.setattr(
        STDiT3,
        "forward",
        lambda self, x, *args, **more: plain(self, x, *args, **more) * (1 if len(x) > 1 else torch.nan),
    )
    check = Check(tmp_path, torch.device("cpu"), deadline=60.0)
    check.run([Section("forward", correctness._forward, 1.0)])
    assert check.failed == ["forward"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "stepps"], "there is no section 'stepps'; choose from machine, correct"),
        (["--deadline", "3"], "--deadline 3 is too short for any of these sections; give at least 15"),
        (
            ["--only", "runs", "--deadline", "50"],
            "--deadline 50 is too short for any of these sections; give at least 65",
        ),
        (["--weights-dir", "no/such/folder"], "--weights-dir no/such/folder is not a folder"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu_check.parse_options(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_can_be_done(capsys):
    assert gpu_check.main([]) == 2
    assert "sees no GPU; --dry runs all sections at tiny size on the CPU" in capsys.readouterr().err
