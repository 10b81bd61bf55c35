"""LPIPS, with a stand-in for its package."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from bench.compare.metrics import ALEXNET, Metrics

BLACK = np.zeros((4, 16, 16, 3), np.uint8)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's folder of downloads, empty; nothing may be downloaded into it."""

    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def fake_lpips(monkeypatch):
    """An lpips that gives half the mean absolute difference of what it is given, and counts its networks."""
    module = types.ModuleType("lpips")
    module.made = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            module.made.append((net, verbose))

        def forward(self, first, second):
            assert first.abs().max() <= 1
            return ((first - second).abs() / 2).mean(dim=(1, 2, 3), keepdim=True)

    module.LPIPS = LPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    return module


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("raise ModuleNotFoundError(name='lpips')", "LPIPS is left out: package lpips is not installed"),
        (
            "import torchvision_that_is_missing",
            "LPIPS is left out: package torchvision_that_is_missing is not installed",
        ),
        (
            "raise RuntimeError('operator torchvision::nms\\ndoes not exist')",
            "LPIPS is left out: it cannot be used: operator torchvision::nms does not exist",
        ),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_with_the_reason(monkeypatch, tmp_path, source, note):
    (tmp_path / "lpips.py").write_text(source)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    metrics = Metrics()
    assert metrics.notes == [note]
    assert "lpips" not in metrics.compare(BLACK, BLACK)


def test_lpips_without_the_weights_of_its_trunk_says_how_to_get_them(hub, fake_lpips):
    [note] = Metrics().notes
    assert fake_lpips.made == []
    assert f"the weights of AlexNet are not at {hub / ALEXNET}; with a network, python -c" in note


def test_lpips_is_averaged_over_frames_and_its_network_made_once(hub, fake_lpips):
    (hub / ALEXNET).touch()
    metrics = Metrics()
    clip = BLACK.copy()
    clip[1] = 255
    assert metrics.compare(clip, BLACK)["lpips"] == pytest.approx(0.25)
    assert metrics.compare(BLACK, BLACK)["lpips"] == 0
    assert fake_lpips.made == [("alex", False)] and metrics.notes[0].startswith("MS-SSIM is left out")


@pytest.mark.parametrize(("result", "reason"), [("nan", "it is nan"), ("inf", "it is inf"), (None, "too small")])
def test_lpips_that_fails_or_is_not_finite_is_left_out_and_noted_once(hub, fake_lpips, monkeypatch, result, reason):
    def fail(_network, first, _second):
        if result is None:
            raise RuntimeError("too small")
        return torch.full((len(first), 1, 1, 1), float(result))

    (hub / ALEXNET).touch()
    monkeypatch.setattr(fake_lpips.LPIPS, "forward", fail)
    metrics = Metrics()
    for _ in range(2):
        assert metrics.compare(BLACK, BLACK).keys() == {"psnr", "ssim", "flicker"}
    assert metrics.notes[1:] == [f"LPIPS is left out of clips of 4 x 16 x 16: {reason}"]
