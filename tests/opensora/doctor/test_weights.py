"""Weights that are there, missing, cut off, or on the hub only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from opensora.doctor.weights import PUBLISHED, check_weights
from opensora.weights import hub

ROOT = Path(__file__).resolve().parents[3]
MINI = str(ROOT / "configs/mini/sample.py")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "cache_folder", lambda: tmp_path / "empty")


def config_with(tmp_path: Path, piece: str, path: str) -> str:
    config = tmp_path / "config.py"
    config.write_text(f'_base_ = "{MINI}"\n{piece} = dict(from_pretrained="{path}")\n')
    return str(config)


def test_the_mini_models_weights_fit():
    findings = check_weights(MINI, required=True)
    assert [finding.state for finding in findings] == ["ok"] * 6
    assert sum("whole" in finding.text for finding in findings) == 3


def test_published_weights_that_are_not_here_are_one_warning():
    (finding,) = check_weights(PUBLISHED, required=False)
    assert finding.state == "warning" and finding.fix.startswith("run: python scripts/weights.py download")
    assert all(part in finding.text for part in ("OpenSora-STDiT-v3", "OpenSora-VAE-v1.2", "t5-v1_1-xxl"))


def test_weights_of_ones_own_config_that_cannot_be_downloaded_are_a_problem(monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    (finding,) = check_weights(PUBLISHED, required=True)
    assert finding.state == "problem" and "--weights-dir DIR" in finding.fix
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    (finding,) = check_weights(PUBLISHED, required=True)
    assert finding.state == "warning" and "the first run downloads it" in finding.text


def test_a_file_that_is_cut_off_is_a_problem(tmp_path):
    folder = shutil.copytree(ROOT / "assets/opensora-mini/vae", tmp_path / "vae")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    bad = [finding for finding in check_weights(config_with(tmp_path, "vae", folder), True) if finding.state != "ok"]
    assert [finding.state for finding in bad] == ["problem"]
    assert "autoencoder" in bad[0].text and "truncated" in bad[0].text and bad[0].fix


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    config = config_with(tmp_path, "model", "/no/such/folder")
    bad = [finding for finding in check_weights(config, True) if finding.state != "ok"]
    assert [finding.state for finding in bad] == ["problem"]
    assert "/no/such/folder" in bad[0].text and "model.from_pretrained" in bad[0].fix


def test_weights_of_another_piece_are_a_problem(tmp_path):
    config = config_with(tmp_path, "model", str(ROOT / "assets/opensora-mini/vae"))
    assert "problem" in [finding.state for finding in check_weights(config, True)]


def test_a_config_that_cannot_be_read(tmp_path):
    (finding,) = check_weights("no/such/config.py", required=True)
    assert finding.state == "problem" and "no/such/config.py" in finding.fix
    (finding,) = check_weights("no/such/config.py", required=False)
    assert finding.state == "ok"
