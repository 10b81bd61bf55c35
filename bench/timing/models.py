"""The models that are timed: STDiT3-XL/2 without its weights, and the bundled one.

`python -m bench.timing.models` is a process to be timed by its parent: it loads the bundled model and decodes one clip,
as `scripts/inference.py` does up to its first decoded frame. A clip is decoded as a whole, so its first frame is ready
when all are.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from adacache import AdaCacheConfig, Codebook, StepController, Trace
from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from bench.flops import counted_flops
from opensora.datasets.aspect import get_image_size
from opensora.device import limit_threads
from opensora.files import REPO_ROOT
from opensora.latent_frames import chunked_latent_frames
from opensora.models.stdit import STDiT3, STDiT3Config
from opensora.pipeline import SamplingPipeline

RESOLUTIONS = ("480p", "720p")
TWO_SECONDS = 51  # frames
GUIDANCE_HALVES = 2
_TEXT_TOKENS = 300

CONFIG = REPO_ROOT / "configs/mini/sample_adacache.py"
CALIBRATED_CONFIG = REPO_ROOT / "configs/mini/sample_calibrated.py"
METRIC_BLOCK = 13  # of STDiT3-XL/2: the temporal block whose attention is measured
PROMPT = "a red circle moving fast to the right"
STAGES = ("imported", "loaded", "decoded")  # of the process that decodes a first frame


@torch.no_grad()
def build_xl2(device: str) -> STDiT3:
    """Build STDiT3-XL/2 in bf16, with random weights unless on the meta device."""
    with torch.device("meta"):
        model = STDiT3(STDiT3Config()).to(torch.bfloat16).eval()
    if device != "meta":
        model = model.to_empty(device=device)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(std=0.02)
    return model


def xl2_inputs(resolution: str, device: str) -> dict[str, Any]:
    """Return the arguments of one guided forward pass of STDiT3-XL/2 for a two-second 9:16 video."""
    dtype = torch.bfloat16
    height, width = get_image_size(resolution, "9:16")
    latents = (GUIDANCE_HALVES, 4, chunked_latent_frames(TWO_SECONDS), height // 8, width // 8)
    return {
        "x": torch.randn(latents, dtype=dtype, device=device),
        "timestep": torch.full((GUIDANCE_HALVES,), 500.0, device=device),
        "y": torch.randn(GUIDANCE_HALVES, 1, _TEXT_TOKENS, 4096, dtype=dtype, device=device),
        "fps": torch.full((1,), 24.0, device=device),
        "height": torch.full((1,), float(height), device=device),
        "width": torch.full((1,), float(width), device=device),
    }


def hidden_state_shape(model: STDiT3, latents: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the shape (B, T, S, C) of the hidden states for latents (B, 4, T, H', W')."""
    batch, _, frames, rows, columns = latents.shape
    _, patch_rows, patch_columns = model.config.patch_size
    return batch, frames, -(-rows // patch_rows) * -(-columns // patch_columns), model.config.hidden_size


def load_mini() -> SamplingPipeline:
    """Load the mini model with AdaCache, on as many threads as the commands would use, without progress bars."""
    transformers_logging.disable_progress_bar()
    pipe = SamplingPipeline.from_config(CONFIG)
    limit_threads(pipe.model)
    return pipe


def first_step_inputs(pipe: SamplingPipeline) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with which the sampler calls the model in an uncached first step."""
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


def every_step(metric_block: int, **options: Any) -> AdaCacheConfig:
    """Return AdaCache's config that measures after each step and computes all of them."""
    return AdaCacheConfig(codebook=Codebook((), (1,)), metric_blocks=(metric_block,), **options)


def run_steps(
    model: STDiT3, inputs: Mapping[str, Any], config: PolicyConfig, steps: int, num_steps: int | None = None
) -> Trace:
    """Run `steps` forward passes with the same inputs, the first of a run of `num_steps` (default: all of them)."""
    controller = StepController(config)
    num_steps = num_steps or steps
    with controller.run(num_steps):
        for step in range(steps):
            controller.begin_step(step, 1000.0 * (1 - step / num_steps))
            model(**inputs, controller=controller)
    return controller.trace


@cache
@torch.no_grad()
def step_tflop(resolution: str) -> tuple[float, float]:
    """Count the TFLOP (2 per multiply-add) of a computed and of a reused step of STDiT3-XL/2, on the meta device."""
    model = build_xl2("meta")
    with counted_flops(model) as counts:
        run_steps(model, xl2_inputs(resolution, "meta"), StaticScheduleConfig((0,)), 2)
    computed, reused = (count / 1e12 for count in counts)
    return computed, reused


def measure_flops() -> dict[str, Any]:
    """Return the operations of a computed and a reused step, and of whole runs."""
    result = {}
    for resolution in RESOLUTIONS:
        computed, reused = step_tflop(resolution)
        result[resolution] = {
            "computed_step_TFLOP": computed,
            "reused_step_TFLOP": reused,
            "run_of_30_steps_TFLOP": 30 * computed,
            "run_of_100_steps_TFLOP": 100 * computed,
        }
    return result


def run_process() -> dict[str, float]:
    """Start a new process of this Python; return the seconds until each of the `STAGES`.

    Raises:
        RuntimeError: the process failed; the message has its output.
    """
    # The parent measures: the clocks of two processes may have different origins.
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.timing.models"]
    reached, other = {}, []
    with subprocess.Popen(
        command, cwd=REPO_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            stage = line.strip()
            if stage in STAGES:
                reached[stage] = time.perf_counter() - start
            else:
                other.append(line)
    if process.returncode or len(reached) < len(STAGES):
        raise RuntimeError(f"the process that decodes a first frame failed:\n{''.join(other)}")
    return reached


def main() -> None:
    """Run the process to be timed, which prints each stage on a line of its own."""
    print("imported", flush=True)
    pipe = load_mini()
    print("loaded", flush=True)
    pipe([PROMPT], progress=False)
    print("decoded", flush=True)


if __name__ == "__main__":
    main()
