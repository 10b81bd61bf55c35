"""Metrics of two clips: their values, what they leave out, batches of frames, and the caption check."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adacache.calibration.quality import psnr
from bench.compare import metrics as module
from bench.compare.metric_info import METRICS
from bench.compare.metrics import (
    Metrics,
    caption_scores,
    flicker,
    is_caption,
    ms_ssim,
    ms_ssim_window,
    ssim,
    temporal_change,
)
from mini.world.captions import parse_caption
from mini.world.paths import random_shot
from mini.world.render import render


@pytest.fixture
def metrics():
    return Metrics()


def flat(level: int, num_frames: int = 2, side: int = 192) -> np.ndarray:
    return np.full((num_frames, side, side, 3), level, np.uint8)


def test_of_equal_clips(metrics):
    clip = np.random.default_rng(0).integers(0, 256, (3, 192, 200, 3), dtype=np.uint8)
    assert metrics.compare(clip, clip) == pytest.approx({"psnr": 80, "ssim": 1, "ms_ssim": 1, "flicker": 0}, abs=1e-5)
    assert [note for note in metrics.notes if "LPIPS" not in note] == []


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
    notes = [note for note in metrics.notes if "LPIPS" not in note]
    assert len(notes) == 1 and "window of 3 pixels instead of 11" in notes[0]
    assert metrics.compare(flat(105, side=32), flat(100, side=32)).keys() == {"psnr", "ssim", "flicker"}
    assert metrics.notes[-1] == "MS-SSIM is left out at 32 x 32: its five scales need sides above 32 pixels"
    assert metrics.compare(flat(105, side=10), flat(100, side=10)).keys() == {"psnr", "flicker"}
    assert metrics.notes[-2] == "SSIM is left out at 10 x 10: its window has 11 pixels"
    metrics.compare(flat(105, side=64), flat(100, side=64))
    assert len(metrics.notes) == len(set(metrics.notes))


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


def test_batches_hold_every_frame_once_with_channels_last(monkeypatch):
    monkeypatch.setattr(module, "BATCH_PIXELS", 2 * 4 * 5 + 1)  # two frames of 4 x 5
    frames = np.arange(5 * 4 * 5 * 3, dtype=np.uint16).astype(np.uint8).reshape(5, 4, 5, 3)
    pairs = list(module.frame_batches(frames, 255 - frames))
    assert [len(batch) for batch, _ in pairs] == [2, 2, 1]
    joined = torch.cat([batch for batch, _ in pairs])
    assert joined.dtype == torch.float32 and np.array_equal(joined.permute(0, 2, 3, 1).numpy(), frames)
    assert all(torch.equal(batch + other, torch.full_like(batch, 255)) for batch, other in pairs)
    assert pairs[0][0].is_contiguous(memory_format=torch.channels_last)


def test_a_frame_larger_than_a_batch_goes_alone(monkeypatch):
    monkeypatch.setattr(module, "BATCH_PIXELS", 3)
    assert [len(batch) for (batch,) in module.frame_batches(np.zeros((2, 4, 4, 3), np.uint8))] == [1, 1]


def test_small_frames_get_one_thread_for_as_long_as_it_takes(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    small, large = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 720, 1280, 3), np.uint8)
    torch.set_num_threads(2)
    try:
        with module.threads_for(small):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with module.threads_for(large):
            assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with module.threads_for(small):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def levels(*values: int) -> np.ndarray:
    """A clip of flat frames."""
    return np.stack([np.full((4, 6, 3), value, np.uint8) for value in values])


def test_change_is_the_mean_step_up_or_down():
    assert temporal_change(levels(10, 30, 0)) == 25  # (20 + 30) / 2
    assert temporal_change(levels(255, 0)) == 255  # no wrapping of unsigned numbers
    half = levels(10, 10)
    half[1, :, :3] = 14
    assert temporal_change(half) == 2


def test_flicker_is_what_the_sample_changes_more():
    assert flicker(levels(10, 14, 10), levels(50, 51, 52)) == pytest.approx(3)
    assert flicker(levels(50, 51, 52), levels(10, 14, 10)) == pytest.approx(-3)
    assert flicker(levels(10, 14, 10), levels(10, 14, 10)) == 0


C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def noisy_pair(num_frames: int, height: int, width: int, noise: float = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (num_frames, height // 4, width // 4, 3)).repeat(4, 1).repeat(4, 2)
    deviations = noise + 20 * np.arange(num_frames)
    errors = rng.normal(0, deviations[:, None, None, None], reference.shape)
    return (reference + errors).clip(0, 255).astype(np.uint8), reference.astype(np.uint8)


def ssim_map(x: np.ndarray, y: np.ndarray, window: int) -> np.ndarray:
    """SSIM at every place of two gray pictures (H, W) where the window fits."""
    weights = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2

    def blurred(picture: np.ndarray) -> np.ndarray:
        places = np.lib.stride_tricks.sliding_window_view(picture, (window, window))
        return np.einsum("hwij,ij->hw", places, weights)

    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    return (2 * mx * my + C1) * (2 * cov + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))


def test_ssim_is_the_formula_averaged_over_colors_and_frames():
    frames, reference = noisy_pair(3, 20, 28)
    expected = [
        ssim_map(frames[i, ..., c].astype(float), reference[i, ..., c].astype(float), 11).mean()
        for i in range(3)
        for c in range(3)
    ]
    assert max(expected) - min(expected) > 0.1
    assert ssim(frames, reference) == pytest.approx(np.mean(expected), abs=1e-5)


def test_ssim_of_flat_clips_is_known():
    # Without any contrast the first factor is left: (2 * 100 * 150 + C1) / (100^2 + 150^2 + C1).
    frames, reference = np.full((2, 16, 16, 3), 100, np.uint8), np.full((2, 16, 16, 3), 150, np.uint8)
    assert ssim(frames, reference) == pytest.approx((30000 + C1) / (32500 + C1), abs=1e-4)
    assert ssim(frames, frames) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("side", "window"), [(720, 11), (161, 11), (160, 9), (128, 7), (65, 5), (64, 3), (33, 3), (32, None), (8, None)]
)
def test_the_window_is_the_largest_that_the_smallest_scale_has_room_for(side, window):
    assert ms_ssim_window(side) == window


def test_every_window_is_one_that_the_library_takes():
    for side in (33, 65, 97, 129):
        frames = np.zeros((1, side, side + 3, 3), np.uint8)
        assert ms_ssim(frames, frames, ms_ssim_window(side)) == pytest.approx(1)


CAPTION = "a still red square on a navy background"


@pytest.fixture(scope="module")
def rendered() -> np.ndarray:
    scene = parse_caption(CAPTION)
    return render(scene, random_shot(scene, np.random.default_rng(0), 17, (128, 128))).numpy()


def test_a_clip_that_shows_its_caption(rendered):
    assert caption_scores(rendered, CAPTION) == {"caption_items": 1.0, "caption_right": 1.0}


def test_a_picture_is_checked_without_its_motion(rendered):
    assert caption_scores(rendered[:1], CAPTION.replace("still", "spinning"))["caption_right"] == 1.0
    assert caption_scores(rendered[:1], CAPTION.replace("navy", "pink")) == {
        "caption_items": pytest.approx(5 / 6),
        "caption_right": 0.0,
    }


def test_a_clip_with_one_wrong_item_of_seven(rendered):
    # found, color, shape, size, still, background and pattern are checked
    scores = caption_scores(rendered, CAPTION.replace("navy", "pink"))
    assert scores == {"caption_items": pytest.approx(6 / 7), "caption_right": 0.0}


def test_only_captions_of_the_little_world_are_checked(rendered):
    assert is_caption(CAPTION) and is_caption("A still red square.")
    assert not is_caption("a still red square on the moon")  # has all that the grammar needs, and more
    assert not is_caption("a red square")  # no motion
    assert caption_scores(rendered, "a dog on a beach") == caption_scores(rendered, None) == {}


def test_clips_too_short_or_too_small_for_the_check_have_no_scores(rendered):
    assert caption_scores(rendered[:16], CAPTION) == caption_scores(rendered[:, :127], CAPTION) == {}
