"""The device a run uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opensora.errors import ConfigError

if TYPE_CHECKING:
    import torch

SMALL_MODEL_PARAMETERS = 50_000_000
BF16_CAPABILITY = 8  # Ampere
OLDEST_TORCH = (2, 6)


def check_torch() -> None:
    """Refuse a PyTorch that is older than what this was tried on.

    Raises:
        ConfigError: it is.
    """
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ConfigError(
            f"PyTorch {torch.__version__} is too old; install {oldest} or newer, best the version in requirements.txt"
        )


def check_device(device: str | None, dtype: torch.dtype | None = None) -> torch.device:
    """The device that ``device`` names; None takes the first CUDA device, or the CPU when there is none.

    Raises:
        ConfigError: PyTorch is too old, or a CUDA device was asked for and this machine, or this build of PyTorch, does
            not have it, or it cannot compute in ``dtype``.
    """
    import torch

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
                f"the GPU '{torch.cuda.get_device_name(chosen)}' (compute capability {major}.{minor}) is older than "
                f"bfloat16, which needs {BF16_CAPABILITY}.0; use --dtype fp16"
            )
    return chosen


def limit_threads(model: torch.nn.Module) -> None:
    """Run a small model on the CPU with one thread.

    Its tensors are too small to be shared out: threads would spend their time waiting for each other, on a busy
    machine several times that of the work. OMP_NUM_THREADS, where the user has set it, is left alone.
    """
    import torch

    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL_PARAMETERS
    if small and model.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions with all bits, on a GPU, too; other dtypes are not touched.

    PyTorch lets cuDNN round their factors to the 10 bits of TF32 unless told otherwise, while its matrix products keep
    all: whoever asks for float32 gets it in every layer.
    """
    import torch

    cudnn = torch.backends.cudnn
    # The second name is that of PyTorch before 2.9.
    switch, name, exact = (
        (cudnn.conv, "fp32_precision", "ieee") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32", False)
    )
    before = getattr(switch, name)
    setattr(switch, name, exact)
    try:
        yield
    finally:
        setattr(switch, name, before)
