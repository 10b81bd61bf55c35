"""What the Python that runs this project has of what it needs."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError

import pytest

from opensora import environment
from opensora.environment import (
    how_to_get_packages,
    installed_version,
    is_environment,
    requirements,
    unmet_requirements,
)


def test_versions_of_installed_packages():
    assert int(installed_version("numpy").split(".")[0]) >= 1
    assert installed_version("no-such-package-here") is None


def test_what_is_needed_is_known_without_a_checkout_too(monkeypatch, tmp_path):
    assert "torch>=2.6" in requirements() and "ruff" in requirements("dev") and "ruff" not in requirements()
    assert unmet_requirements() == {}
    monkeypatch.setattr(environment, "REPO_ROOT", tmp_path)
    monkeypatch.setattr(environment, "requires", lambda name: ["torch>=2.6", 'ruff; extra == "dev"'])
    assert requirements() == ["torch>=2.6"] and requirements("dev") == ["torch>=2.6", "ruff"]

    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(environment, "requires", not_installed)
    assert requirements() == []


def test_how_to_get_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "REPO_ROOT", tmp_path)
    for name in ("CONDA_PREFIX", "CONDA_DEFAULT_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "prefix", "/somewhere")
    assert is_environment() and how_to_get_packages().startswith("install opensora-adacache again")  # no checkout
    (tmp_path / "requirements.txt").touch()
    assert how_to_get_packages() == f"run: {sys.executable} -m pip install -r {tmp_path}/requirements.txt"
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert not is_environment() and "run_sample_video.sh --help, which makes an environment" in how_to_get_packages()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    assert how_to_get_packages() == f"run: source {tmp_path}/.venv/bin/activate"
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    for name, is_one in (("base", False), ("mine", True)):
        monkeypatch.setenv("CONDA_DEFAULT_ENV", name)
        assert is_environment() == is_one


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), ModuleNotFoundError("no module", name="opensora.nothing")]
)
def test_faults_of_our_own_keep_their_trace(capsys, error):
    environment._report_uncaught(type(error), error, None)
    assert capsys.readouterr().err.startswith(type(error).__name__)
