"""The command: its report, its JSON, its exit codes, and that it never ends with a traceback."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from opensora.doctor import command
from opensora.doctor.command import main
from opensora.doctor.finding import ok, problem, warning

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checks(monkeypatch):
    """A function that replaces all checks by two sections, the second with the given check."""

    def set_up(check) -> None:
        monkeypatch.setattr(
            command, "sections", lambda config: iter([("first", [lambda: [ok("fine")]]), (f"of {config}", [check])])
        )

    return set_up


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = [sys.executable, "-m", "opensora.doctor", *arguments]
    return subprocess.run(done, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_all_is_fine(checks, capsys):
    checks(lambda: [ok("fine, too")])
    assert main(["my.py"]) == 0
    said = capsys.readouterr().out
    assert said == "first\n  ok       fine\n\nof my.py\n  ok       fine, too\n\nno problems, no warnings\n"


def test_warnings_do_not_change_the_exit_code(checks, capsys):
    checks(lambda: [warning("odd", "look at it")])
    assert main([]) == 0
    assert "  warning  odd\n           -> look at it\n" in capsys.readouterr().out


def test_problems_do(checks, capsys):
    checks(lambda: [problem("broken", "mend it"), problem("gone", "fetch it"), warning("odd", "look")])
    assert main([]) == 1
    assert capsys.readouterr().out.endswith("-> look\n\n2 problems, 1 warning\n")


def test_a_check_that_raises_is_a_problem_and_the_others_go_on(checks, capsys):
    def fails():
        raise ZeroDivisionError("division by zero")

    checks(fails)
    assert main([]) == 1
    said = capsys.readouterr()
    assert "this could not be checked: ZeroDivisionError: division by zero" in said.out
    assert "Traceback" not in said.out + said.err


def test_json(checks, capsys):
    checks(lambda: [problem("ä broken", "mend it")])
    assert main(["--json", "my.py"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "problems": 1,
        "warnings": 0,
        "findings": {
            "first": [{"state": "ok", "text": "fine", "fix": ""}],
            "of my.py": [{"state": "problem", "text": "ä broken", "fix": "mend it"}],
        },
    }


def test_what_libraries_say_is_not_in_the_report(checks, capsys):
    def talks():
        print("hello")
        logging.getLogger("library").warning("careful")
        warnings.warn("deprecated", stacklevel=1)
        return [ok("fine")]

    checks(talks)
    main(["--json"])
    said = capsys.readouterr()
    json.loads(said.out)
    assert said.err == "hello\n"
    assert logging.root.manager.disable == logging.NOTSET  # for what else runs in this process


def test_an_interrupt_ends_it(checks):
    def interrupted():
        raise KeyboardInterrupt

    checks(interrupted)
    assert main([]) == 130


def test_an_unknown_flag_is_one_sentence():
    done = run("--jsn")
    assert done.returncode == 2
    assert done.stderr.startswith("error: command line: unknown argument '--jsn'; did you mean '--json'?")


def test_the_real_thing_in_a_process_of_its_own():
    done = run("configs/mini/sample.py", "--json", HF_HUB_OFFLINE="1")
    report = json.loads(done.stdout)
    assert done.returncode == (1 if report["problems"] else 0)
    assert "Traceback" not in done.stderr
    findings = report["findings"]
    assert [finding["state"] for finding in findings["weights of configs/mini/sample.py"]] == ["ok"] * 6
    assert [finding["state"] for finding in findings["sampling"]] == ["ok"] * 3
    assert any(finding["text"].startswith("HF_HUB_OFFLINE forbids") for finding in findings["environment"])
    assert all(finding["fix"] for group in findings.values() for finding in group if finding["state"] != "ok")


BLOCKED = """
import sys
for name in ("torch", "numpy", "av", "PIL", "diffusers", "transformers", "huggingface_hub", "mmengine", "safetensors"):
    sys.modules[name] = None
from opensora.doctor.command import main
sys.exit(main([]))
"""


def test_it_runs_where_nothing_is_installed():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "this cannot be checked without the package" in done.stdout
