"""A fixed plan whose reused steps are forecast."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adacache import BridgeConfig, StepController
from adacache.memory import estimate_cache_bytes
from adacache.policies.taylorseer import TaylorSeerConfig


@pytest.mark.parametrize(
    ("options", "num_steps", "computed"),
    [
        ({}, 30, (0, 1, 2, 4, 9, 14, 19, 24, 29)),
        ({"interval": 3, "warmup": 1}, 9, (0, 2, 5, 8)),
        ({"interval": 2, "warmup": 1}, 7, (0, 2, 4, 6)),
        ({"interval": 1}, 6, (0, 1, 2, 3, 4, 5)),
        ({"warmup": 9}, 4, (0, 1, 2, 3)),
        ({}, 4, (0, 1, 2)),
        ({}, 1, (0,)),
    ],
)
def test_the_first_steps_and_after_one_more_every_nth_are_computed(options, num_steps, computed):
    assert TaylorSeerConfig(**options).planned_steps(num_steps) == computed


def test_what_changes_evenly_is_forecast_exactly(model, tokens):
    """The residual is the input: 10, 12, 14, ... Steps 3 and 5 to 8 go by the slope of 2."""
    controller = StepController(TaylorSeerConfig())
    with controller.run(num_steps=9):
        for step in range(9):
            controller.begin_step(step)
            assert model(tokens(10.0 + 2 * step), controller).mean().item() == 2 * (10 + 2 * step)
    assert controller.trace.computed_steps == [0, 1, 2, 4]
    assert controller.trace.metadata["bridge"]["kind"] == "taylor"


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_it_holds_a_residual_more_than_its_order_as_promised(model, tokens, order):
    config = TaylorSeerConfig(interval=2, warmup=1, order=order)
    controller, held = StepController(config), []
    with controller.run(num_steps=12):
        for step in range(12):
            controller.begin_step(step)
            model(tokens(1.0), controller)
            held.append(controller.nbytes)
    assert max(held) == estimate_cache_bytes(config, 12, 4, "fp32").total == (order + 1) * 4 * 4


def test_the_bridge_is_its_own():
    config = TaylorSeerConfig(order=2)
    assert config.bridge == BridgeConfig("taylor", order=2)
    assert replace(config, interval=3, cache_device="cpu").bridge == config.bridge
    assert TaylorSeerConfig(bridge="taylor").bridge == BridgeConfig("taylor", order=1)
    for bridge in ("hold", "fitted", {"kind": "taylor", "order": 1}):
        with pytest.raises(ValueError, match="^bridge .* cannot be used with TaylorSeer, .* order 2; leave bridge out"):
            TaylorSeerConfig(order=2, bridge=bridge)
    with pytest.raises(ValueError, match="bridge kind 'tailor' is unknown, did you mean 'taylor'"):
        TaylorSeerConfig(bridge="tailor")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be a whole number >= 1, got 0"),
        ({"warmup": 0}, "warmup must be a whole number >= 1, got 0"),  # there would be nothing to forecast from
        ({"order": -1}, "bridge order must be a whole number from 0 to 4, got -1"),
        ({"order": 1.0}, "bridge order must be"),
        ({"order": 5}, "bridge order must be"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TaylorSeerConfig(**options)
