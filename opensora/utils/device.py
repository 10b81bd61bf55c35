"""The device a run uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opensora.utils.errors import ConfigError

if TYPE_CHECKING:
    import torch

SMALL_MODEL_PARAMETERS = 50_000_000


def check_device(device: str | None) -> torch.device:
    """The device that ``device`` names; None takes the first CUDA device, or the CPU when there is none.

    Raises:
        ConfigError: a CUDA device was asked for and this machine, or this build of PyTorch, does not have it.
    """
    import torch

    count = torch.cuda.device_count()
    if device is None:
        return torch.device("cuda" if count else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        what = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
        raise ConfigError(
            f"device '{device}' was asked for, but PyTorch {torch.__version__} sees {what}; "
            "use --device cpu, or install a driver and a PyTorch build for it"
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
