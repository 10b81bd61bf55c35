"""The device a run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opensora.utils.errors import ConfigError

if TYPE_CHECKING:
    import torch


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
