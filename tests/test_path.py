"""How much of the house one video runs through: its files and functions are counted, and may only become fewer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from adacache import StepController
from adacache.policies.static import StaticScheduleConfig
from bench.timing.models import first_step_inputs, load_mini
from opensora.files import REPO_ROOT
from opensora.pipeline import SamplingPipeline

OURS = (f"{REPO_ROOT}/opensora/", f"{REPO_ROOT}/adacache/")
# The aim is 20 files and 150 functions for a call of the pipeline, and 5 files for a reused step.
PIPELINE_FILES, PIPELINE_FUNCTIONS = 37, 254
REUSED_FILES, REUSED_FUNCTIONS = 7, 48


def path_of(function: Callable[[], Any]) -> tuple[set[str], set[str]]:
    """Our files and functions that run while ``function`` is called."""
    functions: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            functions.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return {file for file, _ in functions}, {f"{file}:{name}" for file, name in functions}


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return load_mini()


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
