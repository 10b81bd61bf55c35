"""Time the bundled model: loading, first frame, steps, videos, and the whole command; and the bytes of its caches."""

from __future__ import annotations

import subprocess
import tempfile
from statistics import median
from typing import Any

import torch

from bench.timing.memory import bytes_in_a_run
from bench.timing.models import CALIBRATED_CONFIG, CONFIG, PROMPT, first_step_inputs, load_mini, run_process
from bench.timing.record import Samples
from bench.timing.steps import step_figures
from bench.timing.turns import Length, Task, Yardstick, in_turns, seconds
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
    yardstick = Yardstick(device=pipe.model.device)
    return {
        "threads": torch.get_num_threads(),
        **_processes(turns or _PROCESSES, command),
        **_loading(turns or _LOADS, yardstick),
        **_videos(pipe, turns or _VIDEOS, yardstick),
        "one step": _one_step(pipe, turns or _STEPS),
        "cache_bytes_adacache": bytes_in_a_run(pipe, pipe.cache),
        "cache_bytes_calibrated": bytes_in_a_run(pipe, load_config(CALIBRATED_CONFIG).cache),
    }


def _processes(turns: int, command: bool) -> dict[str, Samples]:
    """Time new processes up to the first decoded frame, and in turns with them the whole command."""
    yardstick = Yardstick()
    stages: list[dict[str, float]] = []
    tasks = {"first_frame": Task(lambda _: stages.append(run_process()), Length.PROCESS)}
    result = {}
    if command:
        yardstick_ms = yardstick.milliseconds(Length.PROCESS)
        result["whole_command_first_s"] = Samples((seconds(_run_command),), "s", (yardstick_ms,))
        tasks["command"] = Task(lambda _: _run_command(), Length.PROCESS)
    times = in_turns(tasks, turns, yardstick, warm_up=0)

    def between(start: str | None, end: str) -> Samples:
        spans = (reached[end] - (0 if start is None else reached[start]) for reached in stages)
        return times.beside(spans, "s", Length.PROCESS)

    if command:
        result["whole_command_again_s"] = times["command"]
    return {
        "first_frame_s": between(None, "decoded"),
        "first_load_with_library_imports_s": between("imported", "loaded"),
        "first_video_s": between("loaded", "decoded"),
        **result,
    }


def _run_command() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = ["bash", REPO_ROOT / "run_sample_video.sh", CONFIG, "--prompt", PROMPT, "--save-dir", folder]
        subprocess.run(command, check=True, capture_output=True)


def _loading(turns: int, yardstick: Yardstick) -> dict[str, Samples]:
    """Time loading, and the first video after it, in a process that has done both before."""
    loaded: list[SamplingPipeline] = []

    def load(_: int) -> None:
        loaded[:] = [load_mini()]

    times = in_turns(
        {
            "load": Task(load, Length.VIDEO),
            "first_video": Task(lambda _: loaded[0]([PROMPT], progress=False), Length.VIDEO),
        },
        turns,
        yardstick,
    )
    return {"load_s": times["load"], "first_video_warm_s": times["first_video"]}


def _videos(pipe: SamplingPipeline, turns: int, yardstick: Yardstick) -> dict[str, Any]:
    """Time videos of the same noise with and without the cache, in turns, and their steps."""
    caches = {"uncached": None, "adacache": pipe.cache}
    outputs: dict[str, list[SamplingOutput]] = {name: [] for name in caches}
    warm_up = 1

    def sample(name: str, seed: int) -> None:
        pipe.cache = caches[name]
        outputs[name].append(pipe([PROMPT], seed=seed, progress=False))

    tasks = {name: Task(lambda seed, name=name: sample(name, seed), Length.VIDEO) for name in caches}
    try:
        times = in_turns(tasks, turns, yardstick, warm_up, (Length.BRIEF, Length.STEP))
    finally:
        pipe.cache = caches["adacache"]
    traces = [output.traces[0] for output in outputs["adacache"][warm_up:]]

    def steps(computed: bool, length: Length) -> Samples:
        medians = (
            median(record.milliseconds for record in trace.records if record.computed == computed) for trace in traces
        )
        return times.beside(medians, "ms", length)

    computed, reused = steps(True, Length.STEP), steps(False, Length.BRIEF)
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
    return step_figures(pipe.model, args, kwargs, pipe.cache.metric_blocks[0], turns, Length.STEP, Length.BRIEF)
