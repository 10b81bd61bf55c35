#!/usr/bin/env python3
"""What the cache costs and saves, measured on this machine. Every ratio comes from one run of this script.

Parts: steps   a computed and a reused step of STDiT3-XL/2 at 144p (random weights), and the controller's own work
       memory  bytes the controller holds at full size and on the bundled model, beside those that were promised and
               those of caching per block (no weights needed)
       flops   operations of a step and of a run at full size (no weights needed)
       mini    the bundled model: loading, first video, computed and reused steps, the whole command
       compile the bundled model: a computed step with and without torch.compile, measured in turns
       quality the bundled model: computed steps and PSNR to the uncached video, for several codebooks
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from adacache.policies.static import StaticScheduleConfig  # noqa: E402

if TYPE_CHECKING:
    from opensora.pipeline import SamplingOutput

PARTS = ("steps", "memory", "flops", "mini", "compile", "quality")
TWO_SECONDS = 51  # frames
TEXT_TOKENS = 300
FULL_SIZES = ("480p", "720p")
GUIDANCE_HALVES = 2
UPSTREAM_TENSORS_PER_BLOCK = 2  # attention residual, cross-attention + MLP residual
COMPILE_REPEATS = 200  # timed steps of the bundled model with and as many without torch.compile
MINI_CONFIG = "configs/mini/sample_adacache.py"
MINI_PROMPT = "a red circle moving fast to the right"


def build_xl2(device: str):
    """STDiT3-XL/2 in bf16; on the CPU with random weights."""
    import torch

    from opensora.models.stdit import STDiT3, STDiT3Config

    torch.set_grad_enabled(False)
    with torch.device("meta"):
        model = STDiT3(STDiT3Config()).to(torch.bfloat16).eval()
    if device != "meta":
        model = model.to_empty(device=device)
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(std=0.02)
    return model


def xl2_inputs(resolution: str, device: str) -> dict[str, Any]:
    """Arguments of one guided forward pass of STDiT3-XL/2 for a two-second 9:16 video."""
    import torch

    from opensora.datasets.aspect import get_image_size

    dtype = torch.bfloat16
    height, width = get_image_size(resolution, "9:16")
    latents = (GUIDANCE_HALVES, 4, TWO_SECONDS // 17 * 5, height // 8, width // 8)
    return {
        "x": torch.randn(latents, dtype=dtype, device=device),
        "timestep": torch.full((GUIDANCE_HALVES,), 500.0, device=device),
        "y": torch.randn(GUIDANCE_HALVES, 1, TEXT_TOKENS, 4096, dtype=dtype, device=device),
        "fps": torch.full((1,), 24.0, device=device),
        "height": torch.full((1,), float(height), device=device),
        "width": torch.full((1,), float(width), device=device),
    }


def seconds(task: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def measure_steps(repeats: int) -> dict[str, Any]:
    """Computed steps without and with a controller, reused steps, and the controller with blocks that cost nothing."""
    import torch

    from adacache import AdaCacheConfig, StepController
    from adacache.sites import Site

    model = build_xl2("cpu")
    inputs = xl2_inputs("144p", "cpu")
    every_step = AdaCacheConfig.from_dict({"codebook": {"thresholds": [], "rates": [1]}, "metric_blocks": [13]})

    def milliseconds(config: Any, steps: int) -> list[float]:
        controller = StepController(config)
        with controller.run(steps):
            for step in range(steps):
                controller.begin_step(step)
                model(**inputs, controller=controller)
        return [record.milliseconds for record in controller.trace.records]

    model(**inputs)  # warm-up
    computed = median(1000 * seconds(lambda: model(**inputs)) for _ in range(repeats))
    with_controller = median(milliseconds(every_step, repeats + 1)[1:])
    reused = median(milliseconds(StaticScheduleConfig((0,)), 20)[1:])

    # The controller alone: hidden states of the same size, blocks that only hand over a ready residual.
    _, _, frames, rows, columns = inputs["x"].shape
    tokens = frames * rows * columns // 4
    shape = (GUIDANCE_HALVES, tokens, model.config.hidden_size)
    hidden_states, output, residual = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(3))
    controller = StepController(every_step)

    def empty_blocks(_: torch.Tensor) -> torch.Tensor:
        controller.branch(Site("temporal", 13, "attn"), lambda: residual)
        return output

    def step_of_controller(step: int) -> None:
        controller.begin_step(step)
        controller.stack(hidden_states, empty_blocks, tokens // frames)
        _ = controller.trace.num_computed  # reads the distance out, as the next decision would

    with controller.run(22):
        controller_only = median([1000 * seconds(lambda i=i: step_of_controller(i)) for i in range(22)][2:])
    return {
        "model": "STDiT3-XL/2, 144p 9:16, 51 frames, guidance batch 2, bf16, random weights, CPU",
        "threads": torch.get_num_threads(),
        "computed_ms": computed,
        "computed_with_controller_ms": with_controller,
        "reused_ms": reused,
        "controller_only_ms": controller_only,
        "reused_over_computed": reused / computed,
        "controller_over_computed": controller_only / computed,
        "computed_with_controller_over_computed": with_controller / computed,
    }


@contextmanager
def watched_bytes(model: Any) -> Iterator[list[int]]:
    """What the controllers of a model hold after each of its blocks and forward passes."""
    held: list[int] = []

    def note(_module: Any, arguments: tuple, keywords: dict, _output: Any) -> None:
        held.append((keywords.get("controller") or arguments[-1]).nbytes)

    watched = (model, *model.spatial_blocks, *model.temporal_blocks)
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in watched]
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def measure_memory() -> dict[str, Any]:
    """The most bytes the controller holds, on the meta device and in a run of the bundled model, over the promise."""
    from dataclasses import replace

    from adacache import AdaCacheConfig, StepController
    from adacache.memory import estimate_cache_bytes
    from opensora.pipeline import SamplingPipeline
    from opensora.utils.cache_memory import hidden_state_elements

    def figures(config: Any, elements: int, dtype: str, held: list[int]) -> dict[str, float]:
        promised = estimate_cache_bytes(config, 30, elements, dtype).total
        return {"held_GB": max(held) / 1e9, "promised_over_held": promised / max(held)}

    models = {"bf16": build_xl2("meta"), "fp32": build_xl2("meta").float()}
    result = {}
    for resolution in FULL_SIZES:
        inputs = xl2_inputs(resolution, "meta")
        _, _, frames, rows, columns = inputs["x"].shape
        model = models["bf16"].config
        elements = GUIDANCE_HALVES * frames * -(-rows // 2) * -(-columns // 2) * model.hidden_size
        per_block = UPSTREAM_TENSORS_PER_BLOCK * 2 * model.depth * elements * 2  # bytes in bf16
        result[resolution] = {"hidden_state_GB": elements * 2 / 1e9, "per_block_caching_GB": per_block / 1e9}
        for name, config, dtype in (
            ("adacache", AdaCacheConfig(), "bf16"),
            ("ca-mlp in 2 blocks", AdaCacheConfig(metric="ca-mlp", metric_blocks=(13, 20)), "bf16"),
            ("fitted", AdaCacheConfig(bridge="fitted"), "bf16"),
            ("static", StaticScheduleConfig((0, 1)), "bf16"),
            ("fp32", AdaCacheConfig(bridge="fitted"), "fp32"),
            ("fp32 kept in bf16", AdaCacheConfig(bridge="fitted", cache_dtype="bf16"), "fp32"),
        ):
            controller = StepController(config)
            # A run ends where a distance is read out: a meta tensor has none.
            with watched_bytes(models[dtype]) as held, suppress(NotImplementedError), controller.run(30):
                for step in range(2):
                    controller.begin_step(step)
                    models[dtype](**inputs, controller=controller)
            result[resolution][name] = figures(config, elements, dtype, held)

    pipe = SamplingPipeline.from_config(ROOT / MINI_CONFIG)
    elements, adacache, result["mini"] = hidden_state_elements(pipe.config, batch=1), pipe.cache, {}
    for name, options in (("adacache", {}), ("fitted", {"bridge": "fitted"}), ("bf16", {"cache_dtype": "bf16"})):
        pipe.cache = replace(adacache, **options)
        with watched_bytes(pipe.model) as held:
            pipe([MINI_PROMPT], progress=False)
        result["mini"][name] = figures(pipe.cache, elements, pipe.config.dtype, held)
    return result


def measure_flops() -> dict[str, Any]:
    """Operations (2 per multiply-add) of a computed and a reused step, and of whole runs, on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    from adacache import StepController

    model = build_xl2("meta")
    result = {}
    for resolution in FULL_SIZES:
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


def measure_mini() -> dict[str, Any]:
    """The bundled model in this process, and the whole command in processes of their own."""
    from opensora.pipeline import SamplingPipeline
    from opensora.utils.device import limit_threads

    os.chdir(ROOT)
    with_imports = seconds(lambda: SamplingPipeline.from_config(MINI_CONFIG))
    start = time.perf_counter()
    pipe = SamplingPipeline.from_config(MINI_CONFIG)
    load = time.perf_counter() - start
    limit_threads(pipe.model)

    def videos(seeds: range) -> list[SamplingOutput]:
        return [pipe([MINI_PROMPT], seed=seed, progress=False) for seed in seeds]

    first = videos(range(1))[0].seconds
    cached = videos(range(1, 9))
    records = [record for output in cached for record in output.traces[0].records]
    computed = median(record.milliseconds for record in records if record.computed)
    reused = median(record.milliseconds for record in records if not record.computed)
    pipe.cache = None
    uncached = median(output.seconds for output in videos(range(1, 9)))
    with_cache = median(output.seconds for output in cached)

    with tempfile.TemporaryDirectory() as folder:
        command = [
            "bash",
            str(ROOT / "run_sample_video.sh"),
            MINI_CONFIG,
            "--prompt",
            MINI_PROMPT,
            "--save-dir",
            folder,
        ]
        commands = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3)]
    return {
        "first_load_with_library_imports_s": with_imports,
        "load_s": load,
        "first_video_s": first,
        "computed_step_ms": computed,
        "reused_step_ms": reused,
        "reused_over_computed": reused / computed,
        "video_uncached_s": uncached,
        "video_adacache_s": with_cache,
        "speedup": uncached / with_cache,
        "computed_steps": [output.traces[0].num_computed for output in cached],
        "whole_command_first_s": commands[0],
        "whole_command_again_s": min(commands[1:]),
    }


def compare_caches(captions: int) -> dict[str, Any]:
    """Held-out captions under several codebooks; prints the table that the README shows."""
    from opensora.mini.study.quality import markdown, measure_quality

    result = measure_quality(captions)
    print(markdown(result))
    return result


def compare_compiled() -> dict[str, Any]:
    """A computed step of the bundled model, plain and compiled."""
    from opensora.mini.study.compile_ratio import measure_compile

    return measure_compile(ROOT / MINI_CONFIG, MINI_PROMPT, COMPILE_REPEATS)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
    )
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def show(title: str, values: dict[str, Any], indent: int = 0) -> None:
    """Print nested figures as aligned lines."""
    print(f"{' ' * indent}{title}")
    for name, value in values.items():
        if isinstance(value, dict):
            show(name, value, indent + 2)
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            print(f"{' ' * (indent + 2)}{name:<28} {text}")


def main() -> None:
    """Run the chosen parts, print their figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=3, help="timed computed steps of the large model")
    parser.add_argument("--captions", type=int, default=32, help="videos per codebook of the part quality")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"))
    options = parser.parse_args()
    tasks = {
        "steps": lambda: measure_steps(options.repeats),
        "memory": measure_memory,
        "flops": measure_flops,
        "mini": measure_mini,
        "compile": compare_compiled,
        "quality": lambda: compare_caches(options.captions),
    }
    results: dict[str, Any] = {"machine": machine()}
    show("machine", results["machine"])
    for part in options.parts:
        results[part] = tasks[part]()
        show(part, results[part])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
