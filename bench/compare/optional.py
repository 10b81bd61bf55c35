"""Perceptual metrics of other packages: used where they are installed and complete, else named in one note.

Nothing is downloaded here. Both packages bring torchvision, which has to be the build that fits torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bench.compare.batches import frame_batches
from bench.compare.metric_info import METRICS
from opensora.errors import one_line

# Two clips (F, H, W, 3) uint8 of one shape, the sample first, and frames per second -> one number.
Comparison = Callable[[np.ndarray, np.ndarray, float], float]

ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name for the weights


class NotUsable(Exception):
    """The package is there, but something it needs is not; the message says what."""


def load_lpips() -> Comparison:
    """LPIPS 0.1 with AlexNet, averaged over frames.

    Raises:
        ImportError: the package or torchvision is missing.
        NotUsable: the weights of AlexNet have not been downloaded.
    """
    import lpips
    import torch

    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        fetch = 'python -c "import lpips; lpips.LPIPS()"'
        raise NotUsable(f"the weights of AlexNet are not at {weights}; with a network, {fetch} gets them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the way lpips asks for weights
        network = lpips.LPIPS(net="alex", verbose=False).eval()

    def compare(frames: np.ndarray, reference: np.ndarray, fps: float) -> float:
        with torch.inference_mode():
            batches = frame_batches(frames, reference)
            values = [network(batch / 127.5 - 1, target / 127.5 - 1).flatten() for batch, target in batches]
            return float(torch.cat(values).double().mean())

    return compare


def load_cvvdp() -> Comparison:
    """ColorVideoVDP in JOD on the display "standard_4k"; 10 is no visible difference.

    Raises:
        ImportError: the package or torchvision is missing.
    """
    import pycvvdp
    import torch

    metric = pycvvdp.cvvdp(display_name="standard_4k", quiet=True, device=torch.device("cpu"))

    def compare(frames: np.ndarray, reference: np.ndarray, fps: float) -> float:
        with torch.inference_mode():
            if len(frames) == 1:
                return float(metric.predict(frames[0], reference[0], dim_order="HWC")[0])
            return float(metric.predict(frames, reference, dim_order="FHWC", frames_per_second=fps)[0])

    return compare


LOADERS = {"lpips": load_lpips, "cvvdp": load_cvvdp}


def load_optional(keys: Iterable[str]) -> tuple[dict[str, Comparison], str | None]:
    """Those of the metrics ``keys`` that can be used here, and one sentence on the others; None if there are none."""
    usable: dict[str, Comparison] = {}
    missing = []
    for key in keys:
        try:
            usable[key] = LOADERS[key]()
        except Exception as error:  # another package may fail in any way, and none of them is needed
            missing.append(f"{METRICS[key].title} ({_reason(error)})")
    return usable, f"left out: {', '.join(missing)}" if missing else None


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"package {'cvvdp' if error.name == 'pycvvdp' else error.name} is not installed"
    return str(error) if isinstance(error, NotUsable) else f"cannot be used: {one_line(error)}"
