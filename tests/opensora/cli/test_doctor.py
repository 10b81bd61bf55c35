"""The doctor: its report, JSON and exit codes, the checks of packages, and that it never ends with a traceback."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from opensora import environment
from opensora.cli import doctor, finding
from opensora.cli.doctor import (
    check_accelerators,
    check_colossalai,
    check_hub_variables,
    check_numpy,
    check_requirements,
    check_torchvision,
    check_versions,
    import_error,
    is_importable,
    main,
    release,
    run_check,
)
from opensora.cli.finding import Finding, ok, problem, warning

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checks(monkeypatch):
    """A function that replaces all checks by two sections, the second with the given check."""

    def set_up(check) -> None:
        monkeypatch.setattr(
            doctor, "sections", lambda config: iter([("first", [lambda: [ok("fine")]]), (f"of {config}", [check])])
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
    for module in (doctor, environment):
        monkeypatch.setattr(module, "installed_version", packages.get)
    return packages


@pytest.fixture
def needed(monkeypatch):
    """A function that says what this project needs."""

    def set_up(*texts: str) -> None:
        for module in (doctor, environment):
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
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (3, 99))
    assert check_versions()[-1].state == "problem"
    assert "older than 3.99" in check_versions()[-1].text


def test_this_environment_has_what_is_needed():
    assert states(check_requirements()) == ["ok"]
    assert check_numpy() == []


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
    for module in (doctor, finding, environment):
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


def test_numpy_2_with_a_pytorch_for_numpy_1(installed):
    installed |= {"torch": "2.2.2", "numpy": "2.1.0"}
    (finding,) = check_numpy()
    assert finding.state == "problem" and "was built for NumPy 1, but numpy 2.1.0" in finding.text
    assert "'numpy<2'" in finding.fix


def test_without_numpy_or_torch_the_requirements_say_enough(installed):
    installed["numpy"] = "2.0"
    assert check_numpy() == []


@pytest.mark.parametrize("version, state", [(None, "ok"), ("0.5.0", "ok"), ("0.3.6", "warning")])
def test_colossalai(installed, version, state):
    if version:
        installed["colossalai"] = version
    (finding,) = check_colossalai()
    assert finding.state == state
    assert ("--no-deps" in finding.fix) == (state == "warning")


@pytest.fixture
def fake(monkeypatch):
    """A function that says what is installed, in which version, and how its import fails."""

    def set_up(versions: dict[str, str], errors: dict[str, str] | None = None) -> None:
        def import_error(statement):
            return next((error for module, error in (errors or {}).items() if module in statement), None)

        modules = {name.replace("-", "_") for name in versions}
        monkeypatch.setattr(doctor, "is_importable", modules.__contains__)
        monkeypatch.setattr(doctor, "installed_version", versions.get)
        monkeypatch.setattr(doctor, "import_error", import_error)

    return set_up


def test_without_any_of_them_all_is_fine(fake):
    fake({})
    assert [finding.state for finding in check_torchvision() + check_accelerators()] == ["ok", "ok"]


@pytest.mark.parametrize("vision, torch", [("0.28.0", "2.13.0"), ("0.28.0+cu130", "2.13.1+cu130"), ("0.21.0", "2.6.0")])
def test_a_torchvision_that_fits(fake, vision, torch):
    fake({"torchvision": vision, "torch": torch})
    (finding,) = check_torchvision()
    assert (finding.state, finding.text) == ("ok", f"torchvision {vision} fits")


def test_a_torchvision_that_cannot_be_imported_is_a_problem(fake):
    fake({"torchvision": "0.28.0", "torch": "2.13.0"}, {"torchvision": "RuntimeError: operator nms does not exist"})
    (finding,) = check_torchvision()
    assert finding.state == "problem" and "operator nms does not exist" in finding.text
    assert finding.fix.startswith("run: pip uninstall torchvision")
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("vision, torch", [("0.27.0", "2.13.0"), ("0.29.0", "2.13.0"), ("0.14.1", "1.13.1")])
def test_a_torchvision_of_another_torch_is_a_warning_while_it_can_be_imported(fake, vision, torch):
    fake({"torchvision": vision, "torch": torch})
    (finding,) = check_torchvision()
    assert finding.state == "warning" and f"was not made for torch {torch}" in finding.text


def test_a_torchvision_without_metadata(fake, monkeypatch):
    fake({"torchvision": "0.28.0"})
    monkeypatch.setattr(doctor, "installed_version", {}.get)
    (finding,) = check_torchvision()
    assert (finding.state, finding.text) == ("ok", "torchvision of unknown version fits")


@pytest.mark.parametrize("distribution", ["xformers", "flash-attn", "apex"])
def test_accelerators_that_cannot_be_imported_are_problems(fake, distribution):
    module = distribution.replace("-", "_")
    fake({distribution: "1.0", "transformers": "5.23.0"}, {module: "ImportError: undefined symbol"})
    (finding,) = check_accelerators()
    assert finding.state == "problem" and "undefined symbol" in finding.text
    assert finding.fix.startswith(f"run: pip uninstall {distribution}")


def test_accelerators_that_can_be_imported_are_fine(fake):
    fake({"xformers": "0.0.30", "flash-attn": "2.8", "apex": "0.1", "transformers": "5.23.0"})
    assert [finding.state for finding in check_accelerators()] == ["ok"] * 3


def test_apex_changes_t5_in_older_versions_of_transformers(fake):
    fake({"apex": "0.1", "transformers": "4.56.0"})
    (finding,) = check_accelerators()
    assert finding.state == "warning" and "layer norm" in finding.text


def test_the_numbers_of_a_version():
    assert release("2.13.0+cu124") == (2, 13, 0)
    assert release("1.26") == (1, 26)
    assert release("2.6.0rc1")[:2] == (2, 6)


def test_what_another_process_says_about_an_import():
    assert import_error("import json") is None
    assert import_error("import no_such_module").startswith("ModuleNotFoundError")
    assert import_error("import os; os._exit(7)") == "the process ended with code 7"
    assert import_error("import sys; print('a\\nb', file=sys.stderr); sys.exit(1)") == "b"


def test_an_import_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "_TIMEOUT", 0.2)
    assert import_error("import time; time.sleep(60)") == "no answer within 0.2 seconds"


def test_nothing_is_imported_to_see_whether_it_is_there(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_importable("broken_extra") and not is_importable("no_such_module")
    assert "broken_extra" not in sys.modules


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
