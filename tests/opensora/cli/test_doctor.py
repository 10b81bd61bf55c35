"""The doctor: its report, JSON and exit codes, the checks of packages, and that it never ends with a traceback."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from opensora import environment
from opensora.cli import doctor, doctor_packages
from opensora.cli.doctor import main, run_check
from opensora.cli.doctor_packages import (
    Finding,
    check_extras,
    check_hub_variables,
    check_requirements,
    check_versions,
    import_error,
    ok,
    problem,
    warning,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checks(monkeypatch):
    """A function that replaces all checks by two sections, the second with the given check."""

    def set_up(check) -> None:
        monkeypatch.setattr(
            doctor, "sections", lambda config: iter([("first", [lambda: [ok("fine")]]), (f"of {config}", [check])])
        )

    return set_up


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


def test_an_unknown_flag_is_one_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--jsn"])
    said = capsys.readouterr().err
    assert said.startswith("error: command line: unknown argument '--jsn'; did you mean '--json'?")


def test_the_real_thing(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main([str(ROOT / "configs/mini/sample.py"), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["problems"] else 0)
    findings = report["findings"]
    (own,) = (found for title, found in findings.items() if title.endswith("configs/mini/sample.py"))
    assert [finding["state"] for finding in own] == ["ok"] * 6
    assert [finding["state"] for finding in findings["sampling"]] == ["ok"] * 3
    assert any(finding["text"].startswith("HF_HUB_OFFLINE forbids") for finding in findings["environment"])
    assert all(finding["fix"] for group in findings.values() for finding in group if finding["state"] != "ok")


BLOCKED = """
import sys
for name in ("torch", "numpy", "av", "PIL", "diffusers", "transformers", "huggingface_hub", "mmengine", "safetensors"):
    sys.modules[name] = None
from opensora.cli.doctor import main
sys.exit(main([]))
"""


def test_it_runs_where_nothing_is_installed():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "this cannot be checked without the package" in done.stdout


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """Names and versions of what is taken to be installed."""
    packages: dict[str, str] = {}
    for module in (doctor_packages, environment):
        monkeypatch.setattr(module, "installed_version", packages.get)
    return packages


@pytest.fixture
def needed(monkeypatch):
    """A function that says what this project needs."""

    def set_up(*texts: str) -> None:
        for module in (doctor_packages, environment):
            monkeypatch.setattr(module, "requirements", lambda *_: list(texts))

    return set_up


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_versions_are_listed(installed):
    installed |= {"torch": "2.13.0+cpu", "numpy": "2.4.6"}
    python, packages = check_versions()
    assert python.text.startswith("python 3.")
    assert packages.text == "torch 2.13.0+cpu, numpy 2.4.6"


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor_packages, "OLDEST_PYTHON", (3, 99))
    assert check_versions()[-1].state == "problem"
    assert "older than 3.99" in check_versions()[-1].text


def test_this_environment_has_what_is_needed():
    assert states(check_requirements()) == ["ok"]


@pytest.mark.parametrize(
    "package, version, text",
    [
        ("torch", "2.5.1+cu124", "torch>=2.6"),
        ("diffusers", "0.29.0", "diffusers>=0.30"),
        ("transformers", "4.45.2", "transformers>=4.56"),
        ("setuptools", "84.2.1", "setuptools<82"),
    ],
)
def test_a_package_out_of_range_is_a_problem(installed, needed, package, version, text):
    needed(text, "numpy")
    installed |= {package: version, "numpy": "2.0"}
    (finding,) = check_requirements()
    assert (finding.state, finding.fix) == ("problem", f"run: pip install '{text}'")
    assert finding.text == f"{package} {version} is installed, but {text} is needed"


def test_missing_packages_are_one_problem(installed, needed):
    needed("av>=12", "pillow", "torch>=2.6")
    installed["torch"] = "2.5"
    (finding,) = check_requirements()
    assert finding.text == "torch 2.5 is installed, but torch>=2.6 is needed; not installed: av, pillow"
    assert finding.fix == "run: pip install 'av>=12' 'pillow' 'torch>=2.6'"


def test_nothing_is_ever_to_be_installed_into_the_systems_python(installed, needed, monkeypatch):
    needed("av>=12")
    for module in (doctor_packages, environment):
        monkeypatch.setattr(module, "is_environment", lambda: False)
    (found,) = check_requirements()
    assert "pip " not in found.fix and ("makes an environment" in found.fix or ".venv" in found.fix)
    assert check_versions()[0].text.endswith("not in a virtual environment")


def test_prereleases_and_local_builds_are_in_range(installed, needed):
    needed("torch>=2.6")
    for version in ("2.6.0+cu124", "2.14.0.dev20260101+cpu", "2.15.0a0+git123"):
        installed["torch"] = version
        assert states(check_requirements()) == ["ok"]


def test_without_an_installation_it_is_not_known_what_is_needed(needed):
    needed()
    assert states(check_requirements()) == ["warning"]


@pytest.fixture
def extras(monkeypatch):
    """A function that says what is installed, in which version, and how its import fails."""

    def set_up(versions: dict[str, str], errors: dict[str, str] | None = None) -> None:
        def import_error(statement):
            return next((error for module, error in (errors or {}).items() if module in statement), None)

        modules = {name.replace("-", "_"): name for name in versions}
        monkeypatch.setattr(doctor_packages, "find_spec", modules.get)
        monkeypatch.setattr(doctor_packages, "installed_version", versions.get)
        monkeypatch.setattr(doctor_packages, "import_error", import_error)

    return set_up


def test_without_any_extra_all_is_fine(extras):
    extras({})
    assert states(check_extras()) == ["ok"]


def test_extras_that_can_be_imported_are_fine(extras):
    extras({"torchvision": "0.28.0", "xformers": "0.0.30", "flash-attn": "2.8", "apex": None})
    findings = check_extras()
    assert states(findings) == ["ok"] * 4
    assert findings[0].text.startswith("torchvision 0.28.0 fits") and "apex of unknown version" in findings[3].text


def test_an_extra_that_cannot_be_imported_is_a_problem(extras):
    extras({"torchvision": "0.28.0", "flash-attn": "1.0"}, {"flash_attn": "ImportError: undefined symbol"})
    fits, broken = check_extras()
    assert (fits.state, broken.state) == ("ok", "problem") and "undefined symbol" in broken.text
    assert broken.fix.startswith("run: pip uninstall flash-attn")


def test_what_another_process_says_about_an_import(monkeypatch):
    assert import_error("import json") is None
    assert import_error("import no_such_module").startswith("ModuleNotFoundError")
    assert import_error("import os; os._exit(7)") == "the process ended with code 7"
    monkeypatch.setattr(doctor_packages, "_TIMEOUT", 0.2)
    assert import_error("import time; time.sleep(60)") == "no answer within 0.2 seconds"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_forbidden_downloads_are_a_warning(monkeypatch, name):
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    assert states(check_hub_variables()) == ["ok"]
    monkeypatch.setenv(name, "1")
    (finding,) = check_hub_variables()
    assert finding.state == "warning" and finding.text.startswith(f"{name} forbids")
    monkeypatch.setenv(name, "0")
    assert states(check_hub_variables()) == ["ok"]


def test_a_check_that_fails_is_a_problem_with_the_exceptions_name():
    def fails(error):
        def check():
            raise error

        (finding,) = run_check(check)
        assert finding.state == "problem" and finding.fix
        return finding.text

    assert fails(OSError("no\nway")) == "this could not be checked: OSError: no way"
    assert fails(SystemExit(3)) == "this could not be checked: SystemExit: 3"
    assert fails(AssertionError()) == "this could not be checked: AssertionError: AssertionError"
    missing = ModuleNotFoundError("No module named 'x'", name="x")
    assert fails(missing) == "this cannot be checked without the package x"
    assert run_check(lambda: [ok("fine")]) == [ok("fine")]
