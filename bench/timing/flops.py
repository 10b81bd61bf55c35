"""Operations of a step and of a run at full size."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from bench.timing.full_size import RESOLUTIONS, build_xl2, xl2_inputs


@torch.no_grad()
def measure_flops() -> dict[str, Any]:
    """Operations (2 per multiply-add) of a computed and a reused step, and of whole runs, on the meta device."""
    model = build_xl2("meta")
    result = {}
    for resolution in RESOLUTIONS:
        inputs = xl2_inputs(resolution, "meta")
        controller = StepController(StaticScheduleConfig((0,)))
        counts = []
        with controller.run(2):
            for step in range(2):
                controller.begin_step(step)
                with FlopCounterMode(display=False) as counter:
                    model(**inputs, controller=controller)
                counts.append(counter.get_total_flops() / 1e12)
        result[resolution] = {
            "computed_step_TFLOP": counts[0],
            "reused_step_TFLOP": counts[1],
            "run_of_30_steps_TFLOP": 30 * counts[0],
            "run_of_100_steps_TFLOP": 100 * counts[0],
        }
    return result
