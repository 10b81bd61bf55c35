"""What ``torch.compile`` makes of a computed step of the mini model."""

from __future__ import annotations

import copy
from typing import Any

import torch

from bench.timing.mini_model import first_step_inputs, load_mini
from bench.timing.samples import Samples
from bench.timing.turns import Length, Task, Yardstick, in_turns, seconds
from opensora.compiler import check_compiler

_TURNS = 200


@torch.no_grad()
def measure_compile(turns: int | None = None) -> dict[str, Any]:
    """Plain and compiled steps of one prompt's first step, in turns.

    Returns:
        Step times and their ratio, the seconds of the first compiled step (with an empty cache of compiled code),
        and the largest difference of the outputs.

    Raises:
        ConfigError: nothing can be compiled on this machine.
    """
    from torch._inductor.utils import fresh_cache

    pipe = load_mini()
    check_compiler(pipe.model.device)
    plain, compiled = pipe.model, copy.deepcopy(pipe.model)
    compiled.compile_blocks()
    args, kwargs = first_step_inputs(pipe)
    yardstick = Yardstick(device=plain.device)
    plain(*args, **kwargs)  # the library's own first call must not count as compiling
    with fresh_cache():
        yardstick_ms = yardstick.milliseconds(Length.PROCESS)
        first = Samples((seconds(lambda: compiled(*args, **kwargs)),), "s", (yardstick_ms,))
        difference = (compiled(*args, **kwargs) - plain(*args, **kwargs)).abs().max().item()
        tasks = {
            "plain": Task(lambda _: plain(*args, **kwargs), Length.STEP),
            "compiled": Task(lambda _: compiled(*args, **kwargs), Length.STEP),
        }
        times = in_turns(tasks, turns or _TURNS, yardstick)
    return {
        "threads": torch.get_num_threads(),
        "first_compiled_step_s": first,
        "plain_step_ms": times["plain"].in_milliseconds(),
        "compiled_step_ms": times["compiled"].in_milliseconds(),
        "compiled_over_plain": times["compiled"].over(times["plain"]),
        "largest_difference": difference,
    }
