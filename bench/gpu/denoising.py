"""Time steps of STDiT3-XL/2 with random weights: computed, reused and compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from adacache import AdaCacheConfig, StepController
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from bench.flops import counted_flops
from bench.gpu.report import Check, relative_error, top_kernels
from bench.timing.models import RESOLUTIONS, build_xl2, xl2_inputs
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.models.stdit.blocks import EAGER, STDiT3Block

TEXT_TOKENS = 120  # of a caption of two sentences
REUSED_STEPS = 20
SHOWN_KERNELS = 16
_METRIC_BLOCK = 13
_BACKENDS = {
    "cuDNN": [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}


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
    """Time a computed step without a cache, as it is and without single optimizations."""
    model = full_size.get(check)
    for resolution in RESOLUTIONS:
        inputs = full_size.inputs(check, resolution)
        expected = model(**inputs)
        _time_step(check, f"{resolution} eager", model, inputs)
        if not check.tiny:
            began = time.perf_counter()
            model(**inputs)
            check.figure(f"{resolution} eager: host time to launch it", 1000 * (time.perf_counter() - began), "ms")
            check.synchronize()
        with _channel_major(model):
            _time_step(check, f"{resolution} with a channel-major residual stream", model, inputs)
        with _attending_by_layers(model):
            error = relative_error(model(**inputs), expected)
            _time_step(
                check, f"{resolution} with temporal attention by PyTorch's layers", model, inputs, difference=error
            )
        for name, backends in _BACKENDS.items() if not check.tiny else ():
            with sdpa_kernel(backends):
                _time_step(check, f"{resolution} with attention by {name} alone", model, inputs)


def _time_step(check: Check, what: str, model: STDiT3, inputs: dict[str, Any], **more: Any) -> float:
    with check.peak(f"{what}: peak memory"):
        spent = check.milliseconds(lambda: model(**inputs), 3, 1)
    rate = step_tflop(tuple(inputs["x"].shape), check.tiny) / spent * 1000
    check.figure(what, spent, "ms", tflops=rate, **more)
    return spent


@torch.no_grad()
def check_reused(check: Check, full_size: FullSizeModel) -> None:
    """Time reused steps, and what a controller adds to a computed one."""
    model = full_size.get(check)
    for resolution in RESOLUTIONS:
        inputs = full_size.inputs(check, resolution)
        for cache_device in ("model", "cpu"):
            trace = _run(model, inputs, StaticScheduleConfig((0,), cache_device=cache_device), REUSED_STEPS + 2)
            reused = statistics.median(record.milliseconds for record in trace.records if not record.computed)
            check.figure(f"{resolution} reused step, cache_device {cache_device}", reused, "ms")
        began = check.seconds(lambda: _run(model, inputs, StaticScheduleConfig((0,)), 1))  # noqa: B023
        run = check.seconds(lambda: _run(model, inputs, StaticScheduleConfig((0,)), 1 + REUSED_STEPS))  # noqa: B023
        check.figure(f"{resolution} reused step by the host's clock", 1000 * (run - began) / REUSED_STEPS, "ms")
        plain = check.milliseconds(lambda: model(**inputs), 3, 1)  # noqa: B023
        for what, moreg in (("AdaCache", None), ("AdaCache with MoReg", {"window": (0.0, 1.0)})):
            config = AdaCacheConfig.from_dict(
                {
                    "codebook": {"thresholds": [], "rates": [1]},
                    "metric_blocks": [1 if check.tiny else _METRIC_BLOCK],
                    **({"moreg": moreg} if moreg else {}),
                }
            )
            trace = _run(model, inputs, config, 6)
            spent = statistics.median(record.milliseconds for record in trace.records[2:])
            check.figure(f"{resolution} computed step under {what}", spent, "ms", without=plain)


def _run(model: STDiT3, inputs: dict[str, Any], config: PolicyConfig, steps: int) -> Any:
    controller = StepController(config)
    with controller.run(steps):
        for step in range(steps):
            controller.begin_step(step, 1000.0 * (1 - step / steps))
            model(**inputs, controller=controller)
    return controller.trace


@torch.no_grad()
def check_profile(check: Check, full_size: FullSizeModel) -> None:
    """Report the kernels of a computed step by the time they take."""
    model, inputs = full_size.get(check), full_size.inputs(check, RESOLUTIONS[-1])
    top_kernels(check, lambda: model(**inputs), SHOWN_KERNELS)


@torch.no_grad()
def check_compile(check: Check, full_size: FullSizeModel) -> None:
    """Time steps with blocks compiled whole, and branch by branch."""
    model = full_size.get(check)
    for resolution in RESOLUTIONS[::-1] if not check.tiny else RESOLUTIONS[:1]:
        if not check.tiny and check.seconds_left < 60:
            return check.note(resolution, "no time")
        inputs = full_size.inputs(check, resolution)
        full_size.get(check)
        expected = model(**inputs)
        model.compile_blocks("aot_eager" if check.tiny else "inductor")
        for what, context in (("blocks compiled whole", nullcontext()), ("branches compiled", _by_branches(model))):
            with context:
                first = check.seconds(lambda: model(**inputs))  # noqa: B023
                error = relative_error(model(**inputs), expected)
                what = f"{resolution} {what}"
                _time_step(check, what, model, inputs, first_step_seconds=first, difference=error)
        top_kernels(check, lambda: model(**inputs), SHOWN_KERNELS)  # noqa: B023


@contextmanager
def _by_branches(model: STDiT3) -> Iterator[None]:
    blocks = (*model.spatial_blocks, *model.temporal_blocks)
    compiled = blocks[0].functions

    def whole(block: STDiT3Block, x: Tensor, text: Tensor, text_mask: Tensor, modulation: Tensor, rope: Any) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = block.modulation_rows(modulation)
        x = x + compiled.attention(block, x, shift_msa, scale_msa, gate_msa, rope)
        x = x + compiled.cross_attention(block, x, text, text_mask)
        return x + compiled.mlp(block, x, shift_mlp, scale_mlp, gate_mlp)

    for block in blocks:
        block.functions = replace(compiled, whole=whole)
    try:
        yield
    finally:
        for block in blocks:
            block.functions = compiled


@contextmanager
def _attending_by_layers(model: STDiT3) -> Iterator[None]:
    for block in model.temporal_blocks:
        block.attn.fuse = False
    try:
        yield
    finally:
        for block in model.temporal_blocks:
            block.attn.fuse = True


@contextmanager
def _channel_major(model: STDiT3) -> Iterator[None]:
    """Within the block, lay out hidden states as a convolution would: each channel's tokens together."""

    def transposed(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return output.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    hook = model.x_embedder.register_forward_hook(transposed)
    # The layout persists: positions are added in whatever layout the patches have.
    try:
        yield
    finally:
        hook.remove()


@cache
def step_tflop(shape: tuple[int, ...], tiny: bool) -> float:
    """Count the operations (2 per multiply-add), in 10^12, of a computed step for latents of a shape, without data."""
    if tiny:
        return 0.0
    model, inputs = build_xl2("meta"), xl2_inputs("720p", "meta")
    inputs["x"] = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    # The length of a text is read from its mask, which has no data here, so all tokens count.
    with counted_flops(model) as counts:
        model(**inputs)
    return counts[0] / 1e12


def _small_model() -> STDiT3:
    config = STDiT3Config(hidden_size=288, num_heads=4, depth=2, caption_channels=32, model_max_length=12)
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
