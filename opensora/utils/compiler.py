"""What ``torch.compile`` needs of a machine."""

from __future__ import annotations

import inspect
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.utils.errors import ConfigError

if TYPE_CHECKING:
    import torch


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for ``device`` where that would fail in the first step.

    Raises:
        ConfigError: on the CPU, a C++ compiler or Python's C headers are missing; on CUDA, triton; on both, a PyTorch
            that is too old.
    """
    import torch

    problem = _problem_on_cpu() if device.type == "cpu" else _problem_on_cuda()
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        problem = f"PyTorch {torch.__version__} is too old for it; install the one that requirements.txt names"
    if problem:
        raise ConfigError(f"compile=True cannot be used on {device.type}: {problem}, or switch it off")


def _problem_on_cpu() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()  # the one that torch.compile will start: CXX, or g++
    except (RuntimeError, OSError):
        return "there is no C++ compiler; install g++, name one in the environment variable CXX"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "there are no C headers of Python; install them (python3-dev or the like)"
    return None


def _problem_on_cuda() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError:
        return "the package triton cannot be imported; install it"
    return None
