"""Time a computed step, plain and under `torch.compile`, a reused step, and the controller's own work."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from adacache import StepController
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.sites import Site
from bench.timing.models import (
    METRIC_BLOCK,
    build_xl2,
    every_step,
    first_step_inputs,
    hidden_state_shape,
    load_mini,
    xl2_inputs,
)
from bench.timing.turns import Samples, in_turns, seconds
from opensora.device import check_compiler
from opensora.models.stdit import STDiT3

_TURNS, _COMPILED_TURNS = 5, 200


def measure_steps(turns: int | None = None) -> dict[str, Any]:
    """Return `step_figures` of STDiT3-XL/2 at 144p with random weights."""
    model, inputs = build_xl2("cpu"), xl2_inputs("144p", "cpu")
    figures = step_figures(model, (), inputs, METRIC_BLOCK, turns or _TURNS)
    return {
        "model": "STDiT3-XL/2, 144p 9:16, 51 frames, guidance batch 2, bf16, random weights, CPU",
        "threads": torch.get_num_threads(),
        **figures,
    }


@torch.no_grad()
def step_figures(
    model: STDiT3, args: Sequence[Any], kwargs: Mapping[str, Any], metric_block: int, turns: int
) -> dict[str, Samples]:
    """Time steps of one model in turns: computed without and with a controller, reused, and the controller alone.

    Args:
        args, kwargs: arguments of one forward pass without a controller.
        metric_block: the temporal block whose attention is measured at every computed step.
    """
    warm_up = 2  # distances are measured from the second computed step on, and read out in the next step

    with ExitStack() as runs:

        def begin(config: PolicyConfig) -> StepController:
            return runs.enter_context(StepController(config).run(warm_up + turns))

        def steps(controller: StepController) -> Callable[[int], None]:
            def step(index: int) -> None:
                controller.begin_step(index)  # also reads out the distance of the step before
                model(*args, **kwargs, controller=controller)

            return step

        latents = args[0] if args else kwargs["x"]
        tasks = {
            "computed": lambda _: model(*args, **kwargs),
            "with_controller": steps(begin(every_step(metric_block))),
            "reused": steps(begin(StaticScheduleConfig((0,)))),
            "controller_only": _empty_steps(model, latents, begin(every_step(metric_block)), metric_block),
        }
        times = in_turns(tasks, turns, warm_up)
    return {
        "computed_ms": times["computed"].in_milliseconds(),
        "computed_with_controller_ms": times["with_controller"].in_milliseconds(),
        "reused_ms": times["reused"].in_milliseconds(),
        "controller_only_ms": times["controller_only"].in_milliseconds(),
        "reused_over_computed": times["reused"].over(times["computed"]),
        "controller_over_computed": times["controller_only"].over(times["computed"]),
        "computed_with_controller_over_computed": times["with_controller"].over(times["computed"]),
    }


def _empty_steps(
    model: STDiT3, latents: torch.Tensor, controller: StepController, metric_block: int
) -> Callable[[int], None]:
    """Return a step of the controller alone: hidden states have the model's size, blocks only pass on a residual."""
    batch, frames, tokens_per_frame, channels = hidden_state_shape(model, latents)
    dtype, device = model.dtype, model.device
    shape = (batch, frames * tokens_per_frame, channels)
    hidden_states, output, residual = (torch.randn(shape, dtype=dtype, device=device) for _ in range(3))

    def empty_blocks(_: torch.Tensor) -> torch.Tensor:
        controller.branch(Site("temporal", metric_block, "attn"), lambda: residual)
        return output

    def step(index: int) -> None:
        controller.begin_step(index)
        controller.stack(hidden_states, empty_blocks, tokens_per_frame)

    return step


@torch.no_grad()
def measure_compile(turns: int | None = None) -> dict[str, Any]:
    """Time the first step of one prompt, plain and compiled, in turns.

    Returns:
        Step times and their ratio, the seconds of the first compiled step (with an empty cache of compiled code),
        and the largest difference of the outputs.

    Raises:
        ConfigError: nothing can be compiled on this machine.
    """
    pipe = load_mini()
    check_compiler(pipe.model.device)
    plain, compiled = pipe.model, copy.deepcopy(pipe.model)
    compiled.compile_blocks()
    args, kwargs = first_step_inputs(pipe)
    plain(*args, **kwargs)  # the library's own first call must not count as compiling
    with fresh_cache():
        first = Samples((seconds(lambda: compiled(*args, **kwargs)),), "s")
        difference = (compiled(*args, **kwargs) - plain(*args, **kwargs)).abs().max().item()
        tasks = {
            "plain": lambda _: plain(*args, **kwargs),
            "compiled": lambda _: compiled(*args, **kwargs),
        }
        times = in_turns(tasks, turns or _COMPILED_TURNS)
    return {
        "threads": torch.get_num_threads(),
        "first_compiled_step_s": first,
        "plain_step_ms": times["plain"].in_milliseconds(),
        "compiled_step_ms": times["compiled"].in_milliseconds(),
        "compiled_over_plain": times["compiled"].over(times["plain"]),
        "largest_difference": difference,
    }
