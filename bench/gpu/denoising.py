"""Time steps of STDiT3-XL/2 with random weights: computed, reused and compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from adacache import MoRegConfig
from adacache.policies.static import StaticScheduleConfig
from bench.gpu.report import Check, relative_error, top_kernels
from bench.timing.models import (
    METRIC_BLOCK,
    build_xl2,
    every_step,
    run_steps,
    step_tflop,
    xl2_inputs,
)
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.stdit.blocks import EAGER

TEXT_TOKENS = 120  # of a caption of two sentences
REUSED_STEPS = 20
SHOWN_KERNELS = 16


class FullSizeModel:
    """The model that all sections share, and the arguments of its guided forward pass."""

    def __init__(self) -> None:
        self._model: STDiT3 | None = None

    def get(self, check: Check) -> STDiT3:
        """Return the model in eager mode, with compiled code forgotten; a small model in a dry run."""
        if self._model is None:
            self._model = _small_model() if check.tiny else build_xl2(str(check.device))
        torch._dynamo.reset()  # otherwise a second resolution would make sizes dynamic
        for block in (*self._model.spatial_blocks, *self._model.temporal_blocks):
            block.functions = EAGER
            block.attn.fuse = True
        return self._model

    @staticmethod
    def inputs(check: Check, resolution: str) -> dict[str, Any]:
        """Return the arguments of one forward pass for a two-second video, with a caption of `TEXT_TOKENS`."""
        inputs = _small_inputs() if check.tiny else xl2_inputs(resolution, str(check.device))
        inputs["mask"] = torch.zeros(1, inputs["y"].shape[2], dtype=torch.long)
        inputs["mask"][:, :TEXT_TOKENS] = 1
        return inputs


@torch.no_grad()
def check_steps(check: Check, full_size: FullSizeModel) -> None:
    """Time a computed step without a cache, as it is and without the fused kernel."""
    model = full_size.get(check)
    for resolution in check.resolutions:
        inputs = full_size.inputs(check, resolution)
        expected = model(**inputs)
        _time_step(check, resolution, "eager", model, inputs)
        if not check.tiny:
            began = time.perf_counter()
            model(**inputs)
            check.figure(f"{resolution} eager: host time to launch it", 1000 * (time.perf_counter() - began), "ms")
            check.synchronize()
        with _attending_by_layers(model):
            error = relative_error(model(**inputs), expected)
            _time_step(check, resolution, "temporal attention by PyTorch's layers", model, inputs, difference=error)


def _time_step(check: Check, resolution: str, what: str, model: STDiT3, inputs: dict[str, Any], **more: float) -> None:
    what = f"{resolution} {what}"
    with check.peak(f"{what}: peak memory"):
        spent = check.milliseconds(lambda: model(**inputs), 3, 1)
    # The length of a text is read from its mask, which has no data on the meta device, so all tokens count.
    tflop = 0.0 if check.tiny else step_tflop(resolution)[0]
    check.figure(what, spent, "ms", tflops=1000 * tflop / spent, **more)


@torch.no_grad()
def check_reused(check: Check, full_size: FullSizeModel) -> None:
    """Time reused steps, and what a controller adds to a computed one."""
    model = full_size.get(check)
    for resolution in check.resolutions:
        inputs = full_size.inputs(check, resolution)
        for cache_device in ("model", "cpu"):
            first_alone = StaticScheduleConfig((0,), cache_device=cache_device)
            trace = run_steps(model, inputs, first_alone, REUSED_STEPS + 2)
            reused = statistics.median(record.milliseconds for record in trace.records if not record.computed)
            check.figure(f"{resolution} reused step, cache_device {cache_device}", reused, "ms")
        first_alone = StaticScheduleConfig((0,))
        began, run = (
            check.seconds(partial(run_steps, model, inputs, first_alone, steps)) for steps in (1, 1 + REUSED_STEPS)
        )
        check.figure(f"{resolution} reused step by the host's clock", 1000 * (run - began) / REUSED_STEPS, "ms")
        plain = check.milliseconds(partial(model, **inputs), 3, 1)
        for what, moreg in (("AdaCache", None), ("AdaCache with MoReg", MoRegConfig(window=(0.0, 1.0)))):
            config = every_step(1 if check.tiny else METRIC_BLOCK, moreg=moreg)
            trace = run_steps(model, inputs, config, 6)
            spent = statistics.median(record.milliseconds for record in trace.records[2:])
            check.figure(f"{resolution} computed step under {what}", spent, "ms", without=plain)


@torch.no_grad()
def check_profile(check: Check, full_size: FullSizeModel) -> None:
    """Report the kernels of a computed step by the time they take."""
    model, inputs = full_size.get(check), full_size.inputs(check, check.resolutions[-1])
    top_kernels(check, lambda: model(**inputs), SHOWN_KERNELS)


@torch.no_grad()
def check_compile(check: Check, full_size: FullSizeModel) -> None:
    """Time compiled steps."""
    for resolution in reversed(check.resolutions):
        if not check.tiny and check.seconds_left < 60:
            return check.note(resolution, "no time")
        model, inputs = full_size.get(check), full_size.inputs(check, resolution)
        expected = model(**inputs)
        model.compile_blocks("eager" if check.tiny else "inductor")
        first = check.seconds(partial(model, **inputs))
        error = relative_error(model(**inputs), expected)
        _time_step(check, resolution, "compiled", model, inputs, first_step_seconds=first, difference=error)
        top_kernels(check, partial(model, **inputs), SHOWN_KERNELS)


@contextmanager
def _attending_by_layers(model: STDiT3) -> Iterator[None]:
    for block in model.temporal_blocks:
        block.attn.fuse = False
    try:
        yield
    finally:
        for block in model.temporal_blocks:
            block.attn.fuse = True


def _small_model() -> STDiT3:
    config = STDiT3Config(hidden_size=72, num_heads=1, depth=2, caption_channels=32, model_max_length=12)
    return STDiT3(config).to(torch.bfloat16).eval().requires_grad_(False)


def _small_inputs() -> dict[str, Any]:
    return {
        "x": torch.randn(2, 4, 5, 8, 8, dtype=torch.bfloat16),
        "timestep": torch.full((2,), 500.0),
        "y": torch.randn(2, 1, 12, 32, dtype=torch.bfloat16),
        "fps": torch.full((1,), 24.0),
        "height": torch.full((1,), 64.0),
        "width": torch.full((1,), 64.0),
    }
