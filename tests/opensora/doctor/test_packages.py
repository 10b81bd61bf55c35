"""Facts about packages, and checks that fail."""

from __future__ import annotations

import sys

from opensora.doctor import packages
from opensora.doctor.finding import ok, run_check
from opensora.doctor.packages import import_error, installed_version, is_importable, release, requirements


def test_versions_of_installed_packages():
    assert release(installed_version("numpy")) >= (1, 26)
    assert installed_version("no-such-package-here") is None


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
    monkeypatch.setattr(packages, "_TIMEOUT", 0.2)
    assert import_error("import time; time.sleep(60)") == "no answer within 0.2 seconds"


def test_nothing_is_imported_to_see_whether_it_is_there(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    assert is_importable("broken_extra") and not is_importable("no_such_module")
    assert "broken_extra" not in sys.modules


def test_what_is_needed_is_known_with_and_without_an_installation(monkeypatch):
    def not_installed(name):
        raise packages.PackageNotFoundError(name)

    installed = {text.replace(" ", "") for text in requirements()}
    monkeypatch.setattr(packages, "requires", not_installed)
    assert "torch>=2.6" in requirements() and "torch>=2.6" in installed
    monkeypatch.setattr(packages, "requires", lambda name: ["torch>=2.6", "ruff; extra == 'dev'"])
    assert list(requirements()) == ["torch>=2.6"]


def test_without_a_checkout_nothing_is_known_of_what_is_needed(monkeypatch, tmp_path):
    def not_installed(name):
        raise packages.PackageNotFoundError(name)

    monkeypatch.setattr(packages, "requires", not_installed)
    monkeypatch.setattr(packages, "REPO_ROOT", tmp_path)
    assert list(requirements()) == []


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
