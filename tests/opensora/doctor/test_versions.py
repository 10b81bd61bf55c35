"""Versions that do not go together."""

from __future__ import annotations

import pytest

from opensora.doctor import versions
from opensora.doctor.finding import Finding
from opensora.doctor.versions import check_colossalai, check_numpy, check_requirements, check_versions


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """Names and versions of what is taken to be installed."""
    packages: dict[str, str] = {}
    monkeypatch.setattr(versions, "installed_version", packages.get)
    return packages


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_versions_are_listed(installed):
    installed |= {"torch": "2.13.0+cpu", "numpy": "2.4.6"}
    python, packages = check_versions()
    assert python.text.startswith("python 3.")
    assert packages.text == "torch 2.13.0+cpu, numpy 2.4.6"


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(versions, "OLDEST_PYTHON", (3, 99))
    assert check_versions()[-1].state == "problem"
    assert "older than 3.99" in check_versions()[-1].text


def test_this_environment_has_what_is_needed():
    assert states(check_requirements()) == ["ok"]
    assert states(check_numpy()) == ["ok"]


@pytest.mark.parametrize(
    "package, version, needed",
    [
        ("torch", "2.5.1+cu124", "torch>=2.6"),
        ("diffusers", "0.29.0", "diffusers>=0.30"),
        ("transformers", "4.45.2", "transformers>=4.56"),
        ("setuptools", "84.2.1", "setuptools<82"),
    ],
)
def test_a_package_out_of_range_is_a_problem(installed, monkeypatch, package, version, needed):
    monkeypatch.setattr(versions, "requirements", lambda: [needed, "numpy"])
    installed |= {package: version, "numpy": "2.0"}
    (finding,) = check_requirements()
    assert finding.state == "problem"
    assert finding.text.startswith(f"{package} {version} is installed, but ")
    assert finding.fix == f"run: pip install '{needed}'"


def test_a_missing_package_is_a_problem(installed, monkeypatch):
    monkeypatch.setattr(versions, "requirements", lambda: ["av>=12", "tomli; python_version < '3'"])
    (finding,) = check_requirements()
    assert (finding.state, finding.text, finding.fix) == (
        "problem",
        "av is not installed",
        "run: pip install 'av>=12'",
    )


def test_prereleases_and_local_builds_are_in_range(installed, monkeypatch):
    monkeypatch.setattr(versions, "requirements", lambda: ["torch>=2.6"])
    for version in ("2.6.0+cu124", "2.14.0.dev20260101+cpu", "2.15.0a0+git123"):
        installed["torch"] = version
        assert states(check_requirements()) == ["ok"]


def test_without_an_installation_it_is_not_known_what_is_needed(monkeypatch):
    monkeypatch.setattr(versions, "requirements", list)
    assert states(check_requirements()) == ["warning"]


def test_numpy_2_with_a_pytorch_for_numpy_1(installed):
    installed |= {"torch": "2.2.2", "numpy": "2.1.0"}
    (finding,) = check_numpy()
    assert finding.state == "problem" and "was built for NumPy 1, but numpy 2.1.0" in finding.text
    assert "'numpy<2'" in finding.fix


def test_arrays_that_cannot_be_exchanged_are_a_problem(monkeypatch):
    import torch

    def refuse(array):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    (finding,) = check_numpy()
    assert finding.state == "problem" and finding.text.endswith("Numpy is not available")


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
