"""Where runs begin and end, told by the calls of a transformer alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adacache import StepController
from adacache.integrations.diffusers.runs import Call, Runs
from adacache.policies.static import StaticScheduleConfig


@pytest.mark.parametrize("num_steps", [2, 3])
def test_a_run_ends_with_its_last_call(num_steps):
    schedule = torch.linspace(1000, 500, num_steps)
    loop = SimpleNamespace(
        timesteps=lambda: schedule,
        first_place=lambda places, _: places[0],
        halves_per_call=lambda *_: 1,
        is_pipeline=True,
    )
    ended = []
    runs = Runs(loop, lambda _: StepController(StaticScheduleConfig((0,))), ended.append)
    model, block, ended_after = nn.Identity(), nn.Identity(), []
    for time in schedule:
        latents = torch.ones(1, 2, 3)
        controller, context = runs.enter(Call(model, latents, time[None], None))
        controller.stack(latents, lambda hidden: block(hidden) + 1, 2, context=context)
        runs.leave()
        ended_after.append(len(ended))
    assert ended_after == [0] * (num_steps - 1) + [1]
