"""Metrics of other packages, with stand-ins for these."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from bench.compare.metrics import ALEXNET, LOADERS, Metrics, load_optional

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


@pytest.fixture
def fake_cvvdp(monkeypatch):
    """A pycvvdp that notes what it is asked."""
    module = types.ModuleType("pycvvdp")
    module.asked = []

    class Cvvdp:
        def __init__(self, display_name, quiet, device):
            assert (display_name, quiet, str(device)) == ("standard_4k", True, "cpu")

        def predict(self, test, reference, dim_order, frames_per_second=0):
            module.asked.append((test.shape, dim_order, frames_per_second))
            return torch.tensor(9.5), None

    module.cvvdp = Cvvdp
    monkeypatch.setitem(sys.modules, "pycvvdp", module)
    return module


def test_without_the_packages_one_note_names_them(monkeypatch, tmp_path):
    for name in ("lpips", "pycvvdp", "vmaf_torch"):  # also where they are installed
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    metrics = Metrics()
    assert metrics.notes == [
        "left out: LPIPS (package lpips is not installed), ColorVideoVDP (package cvvdp is not installed), "
        "VMAF (package vmaf-torch is not installed)"
    ]
    assert not LOADERS.keys() & metrics.compare(BLACK, BLACK).keys()


def test_what_is_not_wanted_needs_no_note():
    assert Metrics(without=list(LOADERS)).notes == []


def test_lpips_without_the_weights_of_its_trunk_says_how_to_get_them(hub, fake_lpips):
    usable, note = load_optional(["lpips"])
    assert usable == {} and fake_lpips.made == []
    assert f"LPIPS (the weights of AlexNet are not at {hub / ALEXNET}; with a network, python -c" in note


def test_lpips_is_averaged_over_frames_and_its_network_made_once(hub, fake_lpips):
    (hub / ALEXNET).touch()
    metrics = Metrics(without=["cvvdp", "vmaf"])
    clip = BLACK.copy()
    clip[1] = 255
    assert metrics.compare(clip, BLACK)["lpips"] == pytest.approx(0.25)
    assert metrics.compare(BLACK, BLACK)["lpips"] == 0
    assert fake_lpips.made == [("alex", False)] and metrics.notes[0].startswith("MS-SSIM is left out")


def test_colorvideovdp_is_told_the_frame_rate(fake_cvvdp):
    metrics = Metrics(without=["lpips", "vmaf"])
    assert metrics.compare(BLACK, BLACK, fps=8)["cvvdp"] == 9.5
    metrics.compare(BLACK[:1], BLACK[:1], fps=8)
    assert fake_cvvdp.asked == [((4, 16, 16, 3), "FHWC", 8), ((16, 16, 3), "HWC", 0)]


def test_vmaf_sees_the_luma_of_the_whole_clip_after_its_reference_s(monkeypatch):
    module, asked = types.ModuleType("vmaf_torch"), []

    class Vmaf:
        def __init__(self, temporal_pooling, clip_score):
            assert temporal_pooling and clip_score

        def __call__(self, reference, sample):
            asked.append((reference, sample))
            return torch.tensor(87.5)

    module.VMAF = Vmaf
    monkeypatch.setitem(sys.modules, "vmaf_torch", module)
    clip = BLACK.copy()
    clip[..., 1] = 255
    assert Metrics(without=["lpips", "cvvdp"]).compare(clip, BLACK)["vmaf"] == 87.5
    [(reference, sample)] = asked
    assert reference.shape == sample.shape == (4, 1, 16, 16)
    assert reference.unique().tolist() == [16] and sample.unique().tolist() == pytest.approx([16 + 219 * 0.7152])


def test_a_package_that_cannot_be_imported_is_named_with_the_reason(monkeypatch, tmp_path):
    (tmp_path / "lpips.py").write_text("import torchvision_that_is_missing\n")
    (tmp_path / "pycvvdp.py").write_text("raise RuntimeError('operator torchvision::nms\\ndoes not exist')\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        _, note = load_optional(["lpips", "cvvdp"])
    finally:
        for name in ("lpips", "pycvvdp"):
            sys.modules.pop(name, None)
    assert note == (
        "left out: LPIPS (package torchvision_that_is_missing is not installed), "
        "ColorVideoVDP (cannot be used: operator torchvision::nms does not exist)"
    )


def test_a_metric_that_fails_is_noted_once_and_the_others_stay(fake_cvvdp, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("too small")

    monkeypatch.setattr(fake_cvvdp.cvvdp, "predict", fail)
    metrics = Metrics(without=["lpips", "vmaf", "ms_ssim"])
    assert metrics.compare(BLACK, BLACK).keys() == {"psnr", "ssim", "flicker"}
    metrics.compare(BLACK, BLACK)
    assert metrics.notes == ["ColorVideoVDP is left out of clips of 4 x 16 x 16: too small"]
