"""Every n-th step, whatever happens."""

from __future__ import annotations

import pytest

from adacache import StepController
from adacache.policies.fixed import FixedIntervalConfig


@pytest.mark.parametrize(
    ("options", "num_steps", "computed"),
    [
        ({}, 7, (0, 2, 4, 6)),
        ({}, 6, (0, 2, 4)),  # the last step is not forced
        ({"interval": 3}, 8, (0, 3, 6)),
        ({"interval": 1}, 4, (0, 1, 2, 3)),
        ({"interval": 4, "warmup": 3}, 12, (0, 1, 2, 6, 10)),  # counted from step 2, the last of the first ones
        ({"interval": 1, "warmup": 3}, 5, (0, 1, 2, 3, 4)),
        ({"interval": 99}, 4, (0,)),
        ({"warmup": 9}, 4, (0, 1, 2, 3)),
        ({"interval": 5, "warmup": 3}, 1, (0,)),
    ],
)
def test_the_first_steps_and_then_every_nth_are_computed(options, num_steps, computed):
    assert FixedIntervalConfig(**options).planned_steps(num_steps) == computed


def test_a_run_follows_the_plan_and_holds_the_last_residual(model, tokens):
    controller = StepController(FixedIntervalConfig(interval=3))
    with controller.run(num_steps=5):
        outputs = []
        for step, value in enumerate([10, 11, 12, 13, 14]):
            controller.begin_step(step)
            outputs.append(model(tokens(float(value)), controller).mean().item())
    assert outputs == [20, 11 + 10, 12 + 10, 26, 14 + 13]
    assert controller.trace.computed_steps == [0, 3]
    assert [record.rate for record in controller.trace.records] == [3, None, None, 2, None]


@pytest.mark.parametrize("name", ["interval", "warmup"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "2"])
def test_wrong_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number >= 1, got"):
        FixedIntervalConfig(**{name: value})
