"""FBCache compares the first block's residual with that of the last computed step."""

from __future__ import annotations

import math

import pytest
import torch

from adacache import StepController
from adacache.policies.base import Decision, SignalChange
from adacache.policies.fbcache import FBCacheConfig


def test_up_to_the_threshold_a_step_is_reused():
    policy = FBCacheConfig(threshold=0.5).make_policy(4)
    assert policy.decide(0, None) == Decision(True)
    assert policy.decide(1, SignalChange(1.0, 4.0)) == Decision(False, 0.25, 0.25)
    assert policy.decide(2, SignalChange(2.0, 4.0)) == Decision(False, 0.5, 0.5)
    assert policy.decide(3, SignalChange(3.0, 4.0)) == Decision(True, 0.75, 0.75)


def test_the_last_step_is_not_forced():
    policy = FBCacheConfig().make_policy(2)
    policy.decide(0, None)
    assert not policy.decide(1, SignalChange(0.0, 0.0)).compute  # zeros that stayed zeros did not change


@pytest.mark.parametrize("change", [SignalChange(1.0, 0.0), SignalChange(math.nan, 1.0)])
def test_what_is_no_number_is_computed(change):
    assert FBCacheConfig(threshold=1e9).make_policy(3).decide(1, change).compute


def test_the_rest_of_the_residual_is_reused_behind_this_steps_own_head():
    """Two blocks: the first adds its input, the second 10 times the first one's output."""
    controller = StepController(FBCacheConfig(threshold=0.5))
    outputs = []
    with controller.run(4):
        for step, value in enumerate([1.0, 1.25, 1.5, 2.0]):
            controller.begin_step(step)
            x = torch.full((1, 1, 1), value)
            signals = {"first_block": lambda x=x: x.clone()}
            outputs.append(controller.stack(x, lambda h: 11 * (h + h), 1, signals=signals).item())
    # Heads 1, 1.25, 1.5, 2, each compared with 1 until step 3 is computed, as 2 is more than 0.5 away from 1. The
    # second block added 20 at step 0.
    assert outputs == [22, 2 * 1.25 + 20, 2 * 1.5 + 20, 44]
    assert controller.trace.computed_steps == [0, 3]
    assert [record.value for record in controller.trace.records] == [None, 0.25, 0.5, 1]


@pytest.mark.parametrize("threshold", [0, -1, math.nan, math.inf, "0.1", True])
def test_wrong_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be a finite number above 0"):
        FBCacheConfig(threshold)
