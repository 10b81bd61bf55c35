"""How much of the house one video runs through: its files and functions are counted, and may only become fewer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from bench.timing.models import first_step_inputs
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingPipeline
from scripts import inference
from support import small_model

OURS = (f"{REPO_ROOT}/opensora/", f"{REPO_ROOT}/adacache/")
COMMAND_FILES = 78  # the aim is 60
# The aim is 20 files and 150 functions for a call of the pipeline, and 5 files for a reused step.
PIPELINE_FILES, PIPELINE_FUNCTIONS = 35, 233
REUSED_FILES, REUSED_FUNCTIONS = 7, 46


def path_of(function: Callable[[], Any]) -> tuple[set[str], set[str]]:
    """Our files and functions that run while ``function`` is called."""
    functions: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            functions.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {file for file, _ in functions}, {f"{file}:{name}" for file, name in functions}


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(small_model.ADACACHE)


def test_a_call_of_the_pipeline(pipe):
    files, functions = path_of(lambda: pipe(["a red circle"], progress=False))
    assert len(files) <= PIPELINE_FILES, sorted(files)
    assert len(functions) <= PIPELINE_FUNCTIONS, sorted(functions)


@torch.no_grad()
def test_a_reused_step(pipe):
    args, kwargs = first_step_inputs(pipe)
    controller = StepController(StaticScheduleConfig((0,)))
    with controller.run(2):
        controller.begin_step(0, 1000.0)
        pipe.model(*args, **kwargs, controller=controller)

        def reused() -> None:
            controller.begin_step(1, 900.0)
            pipe.model(*args, **kwargs, controller=controller)

        files, functions = path_of(reused)
    assert len(files) <= REUSED_FILES, sorted(files)
    assert len(functions) <= REUSED_FUNCTIONS, sorted(functions)


def test_a_video_by_the_command(tmp_path):
    """All that runs, the thread that writes among it; modules are imported before."""
    arguments = [small_model.ADACACHE, "--prompt", "a red circle", "--verbose", "0", "--save-dir"]
    assert inference.main([*arguments, str(tmp_path / "first"), "--num-sampling-steps", "2"]) == 0
    files, _ = path_of(lambda: inference.main([*arguments, str(tmp_path / "second")]))
    assert len(files) <= COMMAND_FILES, sorted(files)
