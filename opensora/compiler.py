"""``torch.compile`` on the PyTorch that is installed, and what it needs of a machine."""

from __future__ import annotations

import inspect
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opensora.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Text with and without a mask, frame masks, sizes of 1 and every size that changes for the first time each add a graph:
# mixed batches need a dozen in all. To hit the limit is an error under fullgraph.
RECOMPILE_LIMIT = 64


def compile_function(function: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` of one function in one graph, by whatever options the installed PyTorch has.

    Sizes are constants until one changes, as for a single video they do not; where fewer rows of a batch are due or
    texts have another length, a second graph leaves that size open. To leave all open from the start compiles more
    graphs at once, and again where sizes were equal by chance.
    """
    import torch

    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": None}
    known = inspect.signature(torch.compile).parameters
    if "isolate_recompiles" in known:  # from 2.12 on: graphs of other models do not count toward this one's limit
        options["isolate_recompiles"] = True
    if "recompile_limit" in known:
        return torch.compile(function, recompile_limit=RECOMPILE_LIMIT, **options)
    compiled = torch.compile(function, **options)
    settings = torch._dynamo.config
    # The second name is that of 2.6.
    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"

    def run(*args: Any, **kwargs: Any) -> Any:
        with settings.patch({limit: RECOMPILE_LIMIT}):
            return compiled(*args, **kwargs)

    return run


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for ``device`` where that would fail in the first step.

    Raises:
        ConfigError: on the CPU, a C++ compiler or Python's C headers are missing; on CUDA, triton.
    """
    problem = _problem_on_cpu() if device.type == "cpu" else _problem_on_cuda()
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
