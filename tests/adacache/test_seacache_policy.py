"""SeaCache compares filtered latents, with numbers worked out by hand or apart from the library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adacache import BridgeConfig, StepController
from adacache.meters import sea_filter
from adacache.policies.base import Decision, SignalChange
from adacache.policies.seacache import SeaCacheConfig


def changed(by: float) -> SignalChange:
    """A change of that size, relative to a magnitude of 4."""
    return SignalChange(4 * by, 4.0)


def filtered(latents: np.ndarray, sigma: float) -> np.ndarray:
    """What the paper writes, for (T, H, W): a Wiener filter on every axis, their product of mean 1."""
    s, n, gain = 1 - sigma, sigma, np.ones(latents.shape)
    for axis, size in enumerate(latents.shape):
        f = np.abs(np.fft.fftfreq(size))
        power = 1 / np.maximum(f, 1e-9) ** 3
        shape = [1] * 3
        shape[axis] = size
        gain = gain * (s * power / (s**2 * power + n**2)).reshape(shape)
    return np.fft.ifftn(np.fft.fftn(latents) * gain / gain.mean()).real


def test_changes_add_up_until_a_step_is_computed():
    policy = SeaCacheConfig(threshold=0.5, max_skips=9).make_policy(7)
    assert policy.decide(0, None) == Decision(True)
    assert policy.decide(1, changed(0.25)) == Decision(False, 0.25, 0.25)
    assert policy.decide(2, changed(0.125)) == Decision(False, 0.125, 0.375)
    assert policy.decide(3, changed(0.125)) == Decision(True, 0.125, 0.5)  # not below the threshold
    assert policy.decide(4, changed(0.25)) == Decision(False, 0.25, 0.25)  # from 0 again
    assert policy.decide(5, changed(math.nan)).compute
    assert policy.decide(6, changed(0.0)) == Decision(True, 0.0)  # the last step


def test_no_more_steps_in_a_row_are_reused_than_allowed():
    policy = SeaCacheConfig().make_policy(9)
    computed = [step for step in range(9) if policy.decide(step, changed(0.0) if step else None).compute]
    assert computed == [0, 3, 6, 8]


@pytest.mark.parametrize("sigma", [1.0, 0.75, 0.3, 0.0])
def test_the_filter_is_the_paper_s_for_every_row_and_channel_by_itself(sigma):
    latents = np.random.default_rng(0).normal(size=(2, 3, 2, 5, 4))  # (B, T, C, H, W)
    own = sea_filter(torch.from_numpy(latents), 1000 * sigma)
    assert own.dtype == torch.float32
    for row in range(2):
        for channel in range(2):
            expected = filtered(latents[row, :, channel], min(max(sigma, 1e-6), 1 - 1e-6))
            np.testing.assert_allclose(own[row, :, channel], expected, rtol=1e-4, atol=1e-5)


def test_noise_of_two_values_by_hand():
    # Of one frame and row only the width has frequencies, 0 and 1/2: at sigma 1/2 their gains are 1 / 0.5 = 2 and
    # 0.5 / (0.25 + 0.25 / 8) = 16 / 9, of mean 17 / 9. The other axes have a gain of 1, their mean.
    own = sea_filter(torch.tensor([3.0, 1.0]).view(1, 1, 1, 1, 2), 500.0).flatten()
    mean, half = 2 * 18 / 17, 1 * 16 / 17  # (3 + 1) / 2 and (3 - 1) / 2
    assert own.tolist() == pytest.approx([mean + half, mean - half])


def test_what_a_run_compares_are_filtered_latents_of_the_step_before():
    """Latents of two frames of a 2 x 2 image, moving and growing calmer; every number is found again with numpy."""
    rng, times = np.random.default_rng(3), [900.0, 700.0, 650.0, 500.0, 450.0, 100.0]
    latents = [np.float32(rng.normal(size=(2, 2, 2)) * 0.3 + step) for step in range(1, 7)]
    views = [filtered(x, t / 1000) for x, t in zip(latents, times, strict=True)]
    distances = [
        np.abs(now - before).mean() / np.abs(before).mean() for before, now in zip(views, views[1:], strict=False)
    ]
    threshold = distances[0] + 0.5 * distances[1]  # step 1 is reused, step 2 is not
    controller = StepController(SeaCacheConfig(threshold=float(threshold)))
    with controller.run(6):
        for step, (x, time) in enumerate(zip(latents, times, strict=True)):
            controller.begin_step(step, time)
            tokens = torch.zeros(1, 8, 1)
            signal = torch.from_numpy(x)[None, :, None]
            controller.stack(tokens, lambda h: h + 1, 4, signals={"latents": lambda signal=signal: signal})
    records = controller.trace.records
    assert [record.distance for record in records[1:]] == pytest.approx(distances, rel=1e-4)
    assert controller.trace.computed_steps == [0, 2, 5]
    d1, d2, d3, d4, _ = distances
    assert [record.value for record in records[1:5]] == pytest.approx([d1, d1 + d2, d3, d3 + d4], rel=1e-4)


@pytest.mark.parametrize(("bridge", "added"), [(None, [5.0, 6.0]), ("hold", [4.0, 4.0])])
def test_order_1_goes_on_in_a_straight_line_and_order_0_holds(bridge, added):
    config = SeaCacheConfig(threshold=100) if bridge is None else SeaCacheConfig(threshold=100, bridge=bridge)
    controller, given = StepController(config), []
    with controller.run(7):
        for step in range(7):
            controller.begin_step(step, 1000.0 - 100 * step)
            signals = {"latents": lambda: torch.ones(1, 1, 1, 1, 1)}
            given.append(controller.stack(torch.zeros(1, 1, 1), lambda h, s=step: h + 1 + s, 1, signals=signals).item())
    assert controller.trace.computed_steps == [0, 3, 6]
    assert given[4:6] == added  # residuals 1 and 4 at the steps 0 and 3


def test_what_it_cannot_go_by_is_refused():
    controller = StepController(SeaCacheConfig())
    with pytest.raises(ValueError, match="needs the flow's time"), controller.run(2):
        controller.begin_step(0)
    with pytest.raises(ValueError, match=r"\(B, T, C, H, W\), but this model's are \(1, 6, 3\)"), controller.run(2):
        controller.begin_step(0, 1000.0)
        controller.stack(torch.ones(1, 6, 2), lambda h: h + 1, 3, signals={"latents": lambda: torch.ones(1, 6, 3)})


def test_options():
    assert SeaCacheConfig.from_dict({"bridge": "hold"}) == SeaCacheConfig(0.25, 2, bridge=BridgeConfig("hold"))
    assert SeaCacheConfig.from_dict(SeaCacheConfig(0.1, 3).to_dict()) == SeaCacheConfig(0.1, 3)
    with pytest.raises(ValueError, match="threshold must be a finite number above 0"):
        SeaCacheConfig(threshold=0)
    with pytest.raises(ValueError, match="max_skips must be a whole number >= 1"):
        SeaCacheConfig(max_skips=0)
    with pytest.raises(ValueError, match="unknown SeaCache option 'order'"):
        SeaCacheConfig.from_dict({"order": 1})
