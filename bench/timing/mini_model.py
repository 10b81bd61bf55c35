"""The bundled model as the parts need it."""

from __future__ import annotations

from typing import Any

from transformers.utils import logging as transformers_logging

from opensora.device import limit_threads
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingPipeline

CONFIG = REPO_ROOT / "configs/mini/sample_adacache.py"
CALIBRATED_CONFIG = REPO_ROOT / "configs/mini/sample_calibrated.py"
PROMPT = "a red circle moving fast to the right"


def load_mini() -> SamplingPipeline:
    """The mini model with AdaCache, on the threads that the commands would give it; shows no progress."""
    transformers_logging.disable_progress_bar()
    pipe = SamplingPipeline.from_config(CONFIG)
    limit_threads(pipe.model)
    return pipe


def first_step_inputs(pipe: SamplingPipeline) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with which the sampler calls the model in an uncached first step."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    cache, steps = pipe.cache, pipe.scheduler.num_sampling_steps
    pipe.cache, pipe.scheduler.num_sampling_steps = None, 1
    hook = pipe.model.register_forward_pre_hook(lambda _, *inputs: calls.append(inputs), with_kwargs=True)
    try:
        pipe([PROMPT], progress=False)
    finally:
        hook.remove()
        pipe.cache, pipe.scheduler.num_sampling_steps = cache, steps
    return calls[0]
