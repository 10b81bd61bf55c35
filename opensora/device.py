"""The machine a run uses: its device, its memory, its dtypes, and its compiler."""

from __future__ import annotations

import ctypes
import gc
import inspect
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from opensora.errors import ConfigError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}  # by their names in configs
SMALL_MODEL_PARAMETERS = 50_000_000
BF16_CAPABILITY = 8  # Ampere
OLDEST_TORCH = (2, 6)
# Text with and without a mask, frame masks, sizes of 1 and every size that changes for the first time each add a graph:
# mixed batches need a dozen in all. Hitting the limit is an error under fullgraph.
RECOMPILE_LIMIT = 64
_NO_HEADERS = "there are no C headers of Python; install them (python3-dev or the like)"


def check_torch() -> None:
    """Refuse a PyTorch that is older than the oldest one this was tried on.

    Raises:
        ConfigError: PyTorch is too old.
    """
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ConfigError(
            f"PyTorch {torch.__version__} is too old; install {oldest} or newer, preferably the version in "
            "requirements.txt"
        )


def check_device(device: str | None, dtype: torch.dtype | None = None) -> torch.device:
    """Return the device that `device` names; None takes the first CUDA device, or the CPU when there is none.

    Raises:
        ConfigError: PyTorch is too old, or a CUDA device was asked for that this machine, or this build of PyTorch,
            does not have, or that cannot compute in `dtype`.
    """
    check_torch()
    count = torch.cuda.device_count()
    chosen = torch.device(device if device is not None else "cuda" if count else "cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        what = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
        raise ConfigError(
            f"device '{device}' was asked for, but PyTorch {torch.__version__} sees {what}; "
            "use --device cpu, or install a driver and a PyTorch build for it"
        )
    if chosen.type == "cuda" and dtype == torch.bfloat16:
        major, minor = torch.cuda.get_device_capability(chosen)
        if major < BF16_CAPABILITY:
            raise ConfigError(
                f"the GPU '{torch.cuda.get_device_name(chosen)}' (compute capability {major}.{minor}) is too old for "
                f"bfloat16, which needs {BF16_CAPABILITY}.0; use --dtype fp16"
            )
    return chosen


def limit_threads(model: torch.nn.Module) -> None:
    """Run a small model on the CPU with one thread.

    Its tensors are too small to be divided: threads would wait for each other, on a busy machine several times as long
    as they work. If the user has set OMP_NUM_THREADS, nothing is changed.
    """
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL_PARAMETERS
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def release_memory(device: torch.device | str) -> None:
    """Give the memory of deleted models back to the device or the system."""
    gc.collect()  # hooks of streamed models and quantized weights are held by reference cycles
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    # glibc keeps freed blocks below its threshold (up to 32 MB), which may be most of a quantized or streamed T5.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in full precision on a GPU, too; other dtypes are not affected.

    By default PyTorch lets cuDNN round the factors of convolutions to the 10 bits of TF32, but keeps all bits in matrix
    products; here float32 means float32 in every layer.
    """
    cudnn = torch.backends.cudnn
    # The second name is the one before PyTorch 2.9.
    switch, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    )
    before = getattr(switch, name)
    setattr(switch, name, exact)
    try:
        yield
    finally:
        setattr(switch, name, before)


def compile_function(function: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    """Compile one function to one graph with `torch.compile`, by whatever options the installed PyTorch has.

    Sizes are constants until one changes, which for a single video they do not. When fewer rows of a batch are due or
    texts have another length, a second graph leaves that size open. Leaving all sizes open from the start would compile
    more graphs at once, and again where sizes were equal by chance.
    """
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": None}
    known = inspect.signature(torch.compile).parameters
    if "isolate_recompiles" in known:  # from 2.12 on: graphs of other models do not count toward this one's limit
        options["isolate_recompiles"] = True
    if "recompile_limit" in known:
        return torch.compile(function, recompile_limit=RECOMPILE_LIMIT, **options)
    compiled = torch.compile(function, **options)
    settings = torch._dynamo.config
    # The second name is the one of PyTorch 2.6.
    limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"

    def run(*args: Any, **kwargs: Any) -> Any:
        with settings.patch({limit: RECOMPILE_LIMIT}):
            return compiled(*args, **kwargs)

    return run


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for `device` if that would fail in the first step.

    Raises:
        ConfigError: a compiler (of C++ on the CPU, of C on CUDA), Python's C headers or, on CUDA, triton are missing.
    """
    problem = _problem_on_cpu() if device.type == "cpu" else _problem_on_cuda()
    if problem:
        raise ConfigError(f"compile=True cannot be used on {device.type}: {problem}, or switch it off")


def _problem_on_cpu() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler  # a private part, which takes seconds

    try:
        get_cpp_compiler()  # the one that torch.compile will start: CXX, or g++
    except (RuntimeError, OSError):
        return "there is no C++ compiler; install g++, name one in the environment variable CXX"
    return None if _has_headers() else _NO_HEADERS


def _problem_on_cuda() -> str | None:
    try:
        import triton  # noqa: F401 - an optional package
    except ImportError:
        return "the package triton cannot be imported; install it"
    return triton_problem()


def triton_problem() -> str | None:
    """Return why triton cannot run a kernel here, and what to do; None if nothing is missing.

    Before its first kernel, triton builds a module of C that loads kernels.
    """
    named = os.environ.get("CC")
    if not any(map(shutil.which, ("gcc", "clang") if named is None else (named,))):
        return "there is no C compiler; install gcc, name one in the environment variable CC"
    return None if _has_headers() else _NO_HEADERS


def _has_headers() -> bool:
    return Path(sysconfig.get_path("include"), "Python.h").is_file()
