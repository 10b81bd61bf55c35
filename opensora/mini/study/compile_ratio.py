"""What ``torch.compile`` makes of a computed step of the bundled model."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from opensora.pipeline import SamplingPipeline
from opensora.utils.compiler import check_compiler
from opensora.utils.device import limit_threads


@torch.no_grad()
def measure_compile(config: str | os.PathLike[str], prompt: str, repeats: int) -> dict[str, Any]:
    """Plain and compiled steps of one prompt's first step, in turns, so that a busy machine slows both alike.

    Args:
        repeats: timed steps of each.

    Returns:
        Median step times in milliseconds and their ratio, the seconds of the first compiled step (with an empty
        cache of compiled code), and the largest difference of the outputs.

    Raises:
        ConfigError: nothing can be compiled on this machine.
    """
    from torch._inductor.utils import fresh_cache

    pipe = SamplingPipeline.from_config(config)
    check_compiler(pipe.model.device)
    limit_threads(pipe.model)
    plain, compiled = pipe.model, copy.deepcopy(pipe.model)
    compiled.compile_branches()
    args, kwargs = first_step_inputs(pipe, prompt)
    plain(*args, **kwargs)  # warm-up
    with fresh_cache():
        first = _seconds(lambda: compiled(*args, **kwargs))
        difference = (compiled(*args, **kwargs) - plain(*args, **kwargs)).abs().max().item()
        times = [[_seconds(lambda m=m: m(*args, **kwargs)) for m in (plain, compiled)] for _ in range(repeats)]
    plain_ms, compiled_ms = (1000 * median(column) for column in zip(*times, strict=True))
    return {
        "threads": torch.get_num_threads(),
        "first_compiled_step_s": first,
        "plain_step_ms": plain_ms,
        "compiled_step_ms": compiled_ms,
        "compiled_over_plain": compiled_ms / plain_ms,
        "largest_difference": difference,
    }


def first_step_inputs(pipe: SamplingPipeline, prompt: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with which the sampler calls the model in an uncached first step."""
    calls = []
    pipe.cache, pipe.scheduler.num_sampling_steps = None, 1
    hook = pipe.model.register_forward_pre_hook(lambda _, *inputs: calls.append(inputs), with_kwargs=True)
    try:
        pipe([prompt], progress=False)
    finally:
        hook.remove()
    return calls[0]


def _seconds(task: Callable[[], Any]) -> float:
    start = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
