from __future__ import annotations

import numpy as np
import pytest

from adacache.calibration.quality import psnr
from bench.compare.metric_info import METRICS
from bench.compare.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics(without=["lpips", "cvvdp"])


def flat(level: int, num_frames: int = 2, side: int = 192) -> np.ndarray:
    return np.full((num_frames, side, side, 3), level, np.uint8)


def test_of_equal_clips(metrics):
    clip = np.random.default_rng(0).integers(0, 256, (3, 192, 200, 3), dtype=np.uint8)
    assert metrics.compare(clip, clip) == pytest.approx({"psnr": 80, "ssim": 1, "ms_ssim": 1, "flicker": 0}, abs=1e-5)
    assert metrics.notes == []


def test_of_a_constant_offset(metrics):
    values = metrics.compare(flat(105), flat(100))
    assert values["psnr"] == pytest.approx(20 * np.log10(255 / 5))
    assert values["flicker"] == 0


def test_psnr_is_that_of_the_whole_clip_as_everywhere_else(metrics):
    clip = np.concatenate([flat(101, 1, 16), flat(110, 1, 16)])
    reference = flat(100, 2, 16)
    value = metrics.compare(clip, reference)["psnr"]
    assert value == psnr(clip, reference) == pytest.approx(10 * np.log10(255**2 / ((1 + 100) / 2)))


def test_every_metric_that_is_computed_is_described(metrics):
    values = metrics.compare(flat(105), flat(100))
    assert values.keys() <= METRICS.keys() and all(type(value) is float for value in values.values())


def test_an_image_has_no_flicker(metrics):
    assert metrics.compare(flat(105, 1), flat(100, 1)).keys() == {"psnr", "ssim", "ms_ssim"}


def test_small_frames_say_what_became_of_their_metrics(metrics):
    assert "ms_ssim" in metrics.compare(flat(105, side=64), flat(100, side=64))
    assert len(metrics.notes) == 1 and "window of 3 pixels instead of 11" in metrics.notes[0]
    assert metrics.compare(flat(105, side=32), flat(100, side=32)).keys() == {"psnr", "ssim", "flicker"}
    assert metrics.notes[1] == "MS-SSIM is left out at 32 x 32: its five scales need sides above 32 pixels"
    assert metrics.compare(flat(105, side=10), flat(100, side=10)).keys() == {"psnr", "flicker"}
    assert metrics.notes[2] == "SSIM is left out at 10 x 10: its window has 11 pixels"
    metrics.compare(flat(105, side=64), flat(100, side=64))
    assert len(metrics.notes) == 4  # each once: the fourth is that of MS-SSIM at 10 x 10


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_optional_metric_that_is_not_finite_is_left_out_and_noted_once(monkeypatch, value):
    monkeypatch.setattr("bench.compare.metrics.load_optional", lambda keys: ({"lpips": lambda *_: value}, None))
    metrics = Metrics(without=["cvvdp", "ssim", "ms_ssim"])
    for _ in range(2):
        assert metrics.compare(flat(1, side=16), flat(1, side=16)).keys() == {"psnr", "flicker"}
    assert metrics.notes == [f"LPIPS is left out of clips of 2 x 16 x 16: it is {value}"]


def test_metrics_can_be_left_out():
    chosen = Metrics(without=["lpips", "cvvdp", "ms_ssim", "flicker", "psnr"])
    assert chosen.compare(flat(1), flat(1)).keys() == {"ssim"}


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (flat(1, side=16), "different shapes"),
        (flat(1).astype(np.float32), "in uint8, got"),
        (flat(1)[0], "in uint8, got"),
        (flat(1)[:0], "in uint8, got"),
    ],
)
def test_other_kinds_of_clips_are_refused(metrics, clip, message):
    with pytest.raises(ValueError, match=message):
        metrics.compare(clip, flat(1))
