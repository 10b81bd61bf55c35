"""Time the bundled model: loading, first frame, steps, videos, and the whole command; and the bytes of its caches."""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from statistics import median
from typing import Any

import torch

from bench.timing.memory import bytes_in_a_run
from bench.timing.models import CALIBRATED_CONFIG, CONFIG, PROMPT, first_step_inputs, load_mini, run_process
from bench.timing.steps import step_figures
from bench.timing.turns import Samples, in_turns, seconds
from opensora.config.loading import load_config
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingOutput, SamplingPipeline

_LOADS, _STEPS, _VIDEOS, _PROCESSES = 8, 100, 10, 5  # turns


def measure_mini(turns: int | None = None, command: bool = True) -> dict[str, Any]:
    """Measure all figures of the mini model.

    Args:
        turns: of every measurement; None takes as many as each needs.
        command: also measure the whole command, which sets up its environment if that was not done before.
    """
    pipe = load_mini()
    return {
        "threads": torch.get_num_threads(),
        **_processes(turns or _PROCESSES, command),
        **_loading(turns or _LOADS),
        **_videos(pipe, turns or _VIDEOS),
        "one step": _one_step(pipe, turns or _STEPS),
        "cache_bytes_adacache": bytes_in_a_run(pipe, pipe.cache),
        "cache_bytes_calibrated": bytes_in_a_run(pipe, load_config(CALIBRATED_CONFIG).cache),
    }


def _processes(turns: int, command: bool) -> dict[str, Samples]:
    """Time new processes up to the first decoded frame, and in turns with them the whole command."""
    stages: list[dict[str, float]] = []
    tasks = {"first_frame": lambda _: stages.append(run_process())}
    result = {}
    if command:
        result["whole_command_first_s"] = Samples((seconds(_run_command),), "s")
        tasks["command"] = lambda _: _run_command()
    times = in_turns(tasks, turns, warm_up=0)
    if command:
        result["whole_command_again_s"] = times["command"]
    return {
        "first_frame_s": Samples(tuple(reached["decoded"] for reached in stages), "s"),
        "first_load_with_library_imports_s": Samples(tuple(at["loaded"] - at["imported"] for at in stages), "s"),
        "first_video_s": Samples(tuple(at["decoded"] - at["loaded"] for at in stages), "s"),
        **result,
    }


def _run_command() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", REPO_ROOT / "run_sample_video.sh", CONFIG, "--prompt", PROMPT, "--save-dir", folder]
        subprocess.run(command, check=True, capture_output=True)


def _loading(turns: int) -> dict[str, Samples]:
    """Time loading, and the first video after it, in a process that has done both before."""
    loaded: list[SamplingPipeline] = []

    def load(_: int) -> None:
        loaded[:] = [load_mini()]

    times = in_turns({"load": load, "first_video": lambda _: loaded[0]([PROMPT], progress=False)}, turns)
    return {"load_s": times["load"], "first_video_warm_s": times["first_video"]}


def _videos(pipe: SamplingPipeline, turns: int) -> dict[str, Any]:
    """Time videos of the same noise with and without the cache, in turns, and their steps."""
    caches = {"uncached": None, "adacache": pipe.cache}
    outputs: dict[str, list[SamplingOutput]] = {name: [] for name in caches}
    warm_up = 1

    def sample(name: str, seed: int) -> None:
        pipe.cache = caches[name]
        outputs[name].append(pipe([PROMPT], seed=seed, progress=False))

    try:
        times = in_turns({name: partial(sample, name) for name in caches}, turns, warm_up)
    finally:
        pipe.cache = caches["adacache"]
    traces = [output.traces[0] for output in outputs["adacache"][warm_up:]]

    def steps(computed: bool) -> Samples:
        medians = (
            median(record.milliseconds for record in trace.records if record.computed == computed) for trace in traces
        )
        return Samples(tuple(medians), "ms")

    computed, reused = steps(True), steps(False)
    return {
        "computed_step_ms": computed,
        "reused_step_ms": reused,
        "reused_over_computed": reused.over(computed),
        "video_uncached_s": times["uncached"],
        "video_adacache_s": times["adacache"],
        "speedup": times["uncached"].over(times["adacache"]),
        "computed_steps": [trace.num_computed for trace in traces],
    }


def _one_step(pipe: SamplingPipeline, turns: int) -> dict[str, Samples]:
    """Time the same forward pass again and again, like the part `steps`."""
    args, kwargs = first_step_inputs(pipe)
    return step_figures(pipe.model, args, kwargs, pipe.cache.metric_blocks[0], turns)
