"""EasyCache expects the output to move as the input does, with numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from adacache import StepController
from adacache.policies.base import Decision, OutputChange, SignalChange
from adacache.policies.easycache import EasyCacheConfig, EasyCachePolicy

FIRST = OutputChange(None, None, 4.0)


def moved(difference: float) -> SignalChange:
    """A change of the input; its magnitude plays no part."""
    return SignalChange(difference, 123.0)


def warmed_up(second: OutputChange, num_steps: int = 9) -> EasyCachePolicy:
    """The policy with threshold 0.5 after two computed steps; the second one left `second` behind."""
    policy = EasyCacheConfig(threshold=0.5, warmup=2).make_policy(num_steps)
    assert policy.decide(0, None) == Decision(True)
    policy.observe_output(0, FIRST)
    assert policy.decide(1, moved(1.0)) == Decision(True)
    policy.observe_output(1, second)
    return policy


def test_expected_changes_add_up_until_a_step_is_computed():
    policy = warmed_up(OutputChange(2.0, 4.0, 4.0), num_steps=8)  # k = 4 / 2 = 2, mean|v| = 4
    assert policy.decide(2, moved(0.5)) == Decision(False, 0.25, 0.25)  # 2 * 0.5 / 4
    assert policy.decide(3, moved(0.25)) == Decision(False, 0.125, 0.375)
    assert policy.decide(4, moved(0.5)) == Decision(True, 0.25, 0.625)
    policy.observe_output(4, OutputChange(1.0, 0.5, 2.0))  # k = 0.5, mean|v| = 2
    assert policy.decide(5, moved(1.0)) == Decision(False, 0.25, 0.25)  # 0.5 * 1 / 2, from 0 again
    assert policy.decide(6, moved(1.0)) == Decision(True, 0.25, 0.5)  # not below the threshold
    policy.observe_output(6, OutputChange(1.0, 1.0, 1.0))
    assert policy.decide(7, moved(0.125)) == Decision(True, 0.125)  # the last step


def test_the_warm_up_and_the_last_step_are_computed_though_nothing_moves():
    policy = EasyCacheConfig(warmup=3).make_policy(6)
    computed = []
    for step in range(6):
        if policy.decide(step, moved(0.0) if step else None).compute:
            computed.append(step)
            policy.observe_output(step, OutputChange(1.0, 1.0, 1.0) if step else FIRST)
    assert computed == [0, 1, 2, 5]


def test_without_a_warm_up_to_speak_of_k_takes_two_computed_steps():
    policy = EasyCacheConfig(warmup=1).make_policy(9)
    policy.decide(0, None)
    policy.observe_output(0, FIRST)
    assert policy.decide(1, moved(0.0)) == Decision(True)
    policy.observe_output(1, OutputChange(1.0, 1.0, 1.0))
    assert policy.decide(2, moved(0.0)) == Decision(False, 0.0, 0.0)


def test_an_input_that_stood_still_leaves_k_unknown():
    policy = warmed_up(OutputChange(0.0, 1.0, 4.0))
    assert policy.decide(2, moved(0.0)) == Decision(True)
    policy.observe_output(2, OutputChange(1.0, 1.0, 1.0))
    assert not policy.decide(3, moved(0.25)).compute
    policy.observe_output(3, OutputChange(0.0, 1.0, 1.0))  # as if it had been computed; what was known counts no more
    assert policy.decide(4, moved(0.0)) == Decision(True)


@pytest.mark.parametrize("second", [OutputChange(1.0, 1.0, 0.0), OutputChange(1.0, math.nan, 1.0)])
def test_what_is_no_number_is_computed(second):
    assert warmed_up(second).decide(2, moved(1e-9)).compute


def test_a_reused_step_gets_its_input_plus_the_last_output_minus_input():
    """The model's output is twice its input, so that k is 2 and mean|v| twice the input."""
    controller = StepController(EasyCacheConfig(threshold=0.5, warmup=2))
    outputs = []
    with controller.run(5):
        for step, value in enumerate([8.0, 4.0, 3.0, 2.5, 2.0]):
            controller.begin_step(step)
            x = torch.full((1, 1, 1), value)
            h = controller.stack(x, lambda h: h + h, 1, signals={"latents": lambda x=x: x})
            outputs.append(controller.output(x, h).item())
    # Step 2: 2 * 1 / 8 = 0.25; step 3: 0.25 + 2 * 0.5 / 8 = 0.375. Both add 8 - 4 to their input.
    assert outputs == [16, 8, 7, 6.5, 4]
    assert controller.trace.computed_steps == [0, 1, 4]
    assert [record.value for record in controller.trace.records] == [None, None, 0.25, 0.375, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold must be a finite number above 0"),
        ({"threshold": math.inf}, "threshold must be a finite number above 0"),
        ({"warmup": 0}, "warmup must be a whole number >= 1"),
        ({"warmup": 2.5}, "warmup must be a whole number >= 1"),
        ({"bridge": "linear"}, "bridge 'linear' cannot be used with EasyCache"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EasyCacheConfig(**options)
