"""Packages that nothing here needs, and that break what does."""

from __future__ import annotations

import sys

import pytest

from opensora.doctor import extras
from opensora.doctor.extras import check_accelerators, check_torchvision


@pytest.fixture
def fake(monkeypatch):
    """A function that says what is installed, in which version, and how its import fails."""

    def set_up(versions: dict[str, str], errors: dict[str, str] | None = None) -> None:
        def import_error(statement):
            return next((error for module, error in (errors or {}).items() if module in statement), None)

        modules = {name.replace("-", "_") for name in versions}
        monkeypatch.setattr(extras, "is_importable", modules.__contains__)
        monkeypatch.setattr(extras, "installed_version", versions.get)
        monkeypatch.setattr(extras, "import_error", import_error)

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
    monkeypatch.setattr(extras, "installed_version", {}.get)
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
