"""All metrics of two clips at once.

SSIM: the three colors separately, then averaged; Gaussian window of 11 pixels with sigma 1.5, without padding; biased
variances; K = 0.01 and 0.03; data range 255. This is scikit-image's with gaussian_weights=True,
use_sample_covariance=False. LPIPS is used if its package is installed and complete, else a note says why not; nothing
is downloaded here.

Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity (2004), and Multi-scale
Structural Similarity for Image Quality Assessment (2003).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytorch_msssim
import torch
from torch import Tensor

from adacache.calibration.quality import psnr
from mini.check.check import check_clip
from mini.check.describe import can_describe
from mini.world.captions import parse_caption, vocabulary
from opensora.errors import one_line

# Metrics hold some twenty float tensors of a batch's size: about 250 MB for one frame of 720p, a batch of its own.
BATCH_PIXELS = 2**17
WINDOW, SMALLEST_WINDOW = 11, 3
HALVINGS = 16  # the last of the five scales has a sixteenth of the side
PEAK = 255.0
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name for the weights

# Two clips (F, H, W, 3) uint8 of one shape, the sample first -> one number.
Comparison = Callable[[np.ndarray, np.ndarray], float]


class Metrics:
    """Compares clips with reference clips; the network of LPIPS is loaded once.

    Attributes:
        notes: sentences on what was left out and on variants that had to be used, each once; comparing more clips may
            add some.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._lpips: Comparison | None = None
        try:
            self._lpips = load_lpips()
        except Exception as error:  # a package may fail in any way, and nobody needs this one
            self._note(f"LPIPS is left out: {_reason(error)}")

    def compare(self, frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        """Return the metrics of `bench.compare.metric_info` by key.

        A metric that cannot be computed has no key: SSIM of frames below 11 pixels, MS-SSIM below 33, flicker of a
        single frame, and LPIPS if it is not installed, fails or is not finite.

        Args:
            frames: the sample, (F, H, W, 3) uint8.
            reference: the same shape.

        Raises:
            ValueError: the clips differ in shape, or one is not (F, H, W, 3) uint8.
        """
        for clip in (frames, reference):
            if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
                raise ValueError(f"a clip is (F, H, W, 3) in uint8, got {clip.shape} in {clip.dtype}")
        if frames.shape != reference.shape:
            raise ValueError(f"clips of different shapes cannot be compared: {frames.shape} and {reference.shape}")
        with threads_for(frames):
            values = {
                "psnr": psnr(frames, reference),
                **self._structure(frames, reference),
                "flicker": flicker(frames, reference) if len(frames) > 1 else None,
                "lpips": None if self._lpips is None else self._lpips_value(frames, reference),
            }
        return {key: value for key, value in values.items() if value is not None}

    def _structure(self, frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        height, width = frames.shape[1:3]
        side, values = min(height, width), {}
        if side >= WINDOW:
            values["ssim"] = ssim(frames, reference)
        else:
            self._note(f"SSIM is left out at {height} x {width}: its window has {WINDOW} pixels")
        window = ms_ssim_window(side)
        if window is None:
            self._note(f"MS-SSIM is left out at {height} x {width}: its five scales need sides above 32 pixels")
            return values
        if window != WINDOW:
            self._note(
                f"MS-SSIM at {height} x {width} has a window of {window} pixels instead of {WINDOW}, which needs "
                "sides above 160: do not compare it with values of larger frames"
            )
        return {**values, "ms_ssim": ms_ssim(frames, reference, window)}

    def _lpips_value(self, frames: np.ndarray, reference: np.ndarray) -> float | None:
        """Return LPIPS, None if its package fails: that must not end a run or spoil its means."""
        try:
            value = self._lpips(frames, reference)
            if math.isfinite(value):
                return value
            reason = f"it is {value}"
        except Exception as error:
            reason = one_line(error)
        count, height, width = frames.shape[:3]
        self._note(f"LPIPS is left out of clips of {count} x {height} x {width}: {reason}")
        return None

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def frame_batches(*clips: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of the same frames of every clip (F, H, W, 3) uint8, as float tensors (f, 3, H, W) in 0..255.

    The tensors keep the channels last in memory, which makes convolutions of few channels several times faster.
    """
    count, height, width = clips[0].shape[:3]
    step = max(1, BATCH_PIXELS // (height * width))
    for start in range(0, count, step):
        yield tuple(torch.from_numpy(clip[start : start + step]).permute(0, 3, 1, 2).float() for clip in clips)


@contextmanager
def threads_for(clip: np.ndarray) -> Iterator[None]:
    """Within the block, use one thread for a clip of small frames (F, H, W, 3): more would only wait for each other.

    A user's OMP_NUM_THREADS is respected.
    """
    before = torch.get_num_threads()
    if np.prod(clip.shape[1:3]) < BATCH_PIXELS and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def temporal_change(frames: np.ndarray) -> float:
    """Return the mean absolute difference of consecutive frames in 0..255, for (F, H, W, 3) uint8 with F >= 2.

    VBench's temporal flickering score is (255 - this) / 255. It also counts wanted motion, so it is only meaningful
    for clips at rest, or as a difference between two clips of the same content.

    Source: https://github.com/Vchitect/VBench, vbench/temporal_flickering.py.
    """
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return float(np.mean([np.abs(np.subtract(later, earlier, dtype=np.int16)).mean() for later, earlier in pairs]))


def flicker(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the temporal change of a clip minus that of its reference: above 0 for a clip that flickers more."""
    return temporal_change(frames) - temporal_change(reference)


def ms_ssim_window(side: int) -> int | None:
    """Return the largest odd window, up to 11 pixels, that fits the smallest scale of frames of shorter side `side`.

    11 from 161 pixels on, 3 at 33 to 64; None for smaller frames.
    """
    fitting = min(WINDOW, (side - 1) // HALVINGS + 1)
    window = fitting if fitting % 2 else fitting - 1
    return window if window >= SMALLEST_WINDOW else None


def ssim(frames: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean SSIM over the frames of two clips (F, H, W, 3) uint8 with sides of 11 pixels or more."""
    return _mean_over_frames(pytorch_msssim.ssim, frames, reference, WINDOW)


def ms_ssim(frames: np.ndarray, reference: np.ndarray, window: int) -> float:
    """Return the mean MS-SSIM over the frames of two clips (F, H, W, 3) uint8; `window` is by `ms_ssim_window`."""
    return _mean_over_frames(pytorch_msssim.ms_ssim, frames, reference, window)


def _mean_over_frames(of_batch: Callable[..., Tensor], frames: np.ndarray, reference: np.ndarray, window: int) -> float:
    with torch.inference_mode():
        values = [
            of_batch(batch, target, data_range=PEAK, size_average=False, win_size=window)
            for batch, target in frame_batches(frames, reference)
        ]
        return float(torch.cat(values).double().mean())


class NotUsable(Exception):
    """A package is installed, but something it needs is missing; the message says what."""


def load_lpips() -> Comparison:
    """Load LPIPS 0.1 with AlexNet, averaged over frames.

    Raises:
        ImportError: the package or torchvision is missing.
        NotUsable: the weights of AlexNet have not been downloaded.
    """
    import lpips

    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        fetch = 'python -c "import lpips; lpips.LPIPS()"'
        raise NotUsable(f"the weights of AlexNet are not at {weights}; with a network, {fetch} gets them")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about the way lpips asks for weights
        network = lpips.LPIPS(net="alex", verbose=False).eval()

    def compare(frames: np.ndarray, reference: np.ndarray) -> float:
        with torch.inference_mode():
            batches = frame_batches(frames, reference)
            values = [network(batch / 127.5 - 1, target / 127.5 - 1).flatten() for batch, target in batches]
            return float(torch.cat(values).double().mean())

    return compare


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"package {error.name} is not installed"
    return str(error) if isinstance(error, NotUsable) else f"it cannot be used: {one_line(error)}"


def is_caption(prompt: str) -> bool:
    """Whether a prompt describes a scene of the mini model's world, in its words only."""
    if not set(prompt.lower().rstrip(".").split()) <= set(vocabulary()):
        return False
    try:
        parse_caption(prompt)
    except ValueError:
        return False
    return True


def caption_scores(frames: np.ndarray, prompt: str | None) -> dict[str, float]:
    """Return the share of right items ("caption_items"), and 1 if all are right, else 0 ("caption_right").

    Return {} for a prompt that is not a caption of the mini model's world, and for a clip (F, H, W, 3), or a picture,
    that is too short or too small for the check.
    """
    if prompt is None or not can_describe(*frames.shape[:3]) or not is_caption(prompt):
        return {}
    items = check_clip(frames, prompt).items().values()
    return {"caption_items": sum(items) / len(items), "caption_right": float(all(items))}
