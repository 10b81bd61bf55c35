"""All metrics of two clips at once."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from adacache.calibration.quality import psnr
from bench.compare.batches import threads_for
from bench.compare.flicker import flicker
from bench.compare.metric_info import METRICS
from bench.compare.optional import LOADERS, load_optional
from bench.compare.structure import WINDOW, ms_ssim, ms_ssim_window, ssim
from opensora.errors import one_line

DEFAULT_FPS = 24.0


class Metrics:
    """Compares clips with reference clips; the models of optional metrics are loaded once.

    Attributes:
        notes: sentences on what was left out and on variants that had to be used, each once. They grow with the clips
            that are compared.
    """

    def __init__(self, without: Collection[str] = ()) -> None:
        """``without`` are keys of metrics to leave out, e.g. the slow "cvvdp" where it is installed."""
        self.notes: list[str] = []
        self._without = frozenset(without)
        self._optional, note = load_optional([key for key in LOADERS if key not in self._without])
        self._note(note)

    def compare(self, frames: np.ndarray, reference: np.ndarray, fps: float = DEFAULT_FPS) -> dict[str, float]:
        """The metrics of ``bench.compare.metric_info`` by key.

        What cannot be computed has no key: SSIM of frames below 11 pixels, MS-SSIM below 33, flicker of a single
        frame, optional metrics that are not installed, or fail or are not finite.

        Args:
            frames: the sample, (F, H, W, 3) uint8.
            reference: the same shape.
            fps: frames per second, which ColorVideoVDP depends on.

        Raises:
            ValueError: clips of different shapes or of another kind.
        """
        for clip in (frames, reference):
            if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
                raise ValueError(f"a clip is (F, H, W, 3) in uint8, got {clip.shape} in {clip.dtype}")
        if frames.shape != reference.shape:
            raise ValueError(f"clips of different shapes cannot be compared: {frames.shape} and {reference.shape}")
        with threads_for(frames):
            values = {
                "psnr": psnr(frames, reference) if self._wanted("psnr") else None,
                **self._structure(frames, reference),
                "flicker": flicker(frames, reference) if self._wanted("flicker") and len(frames) > 1 else None,
                **{key: self._optional_value(key, frames, reference, fps) for key in self._optional},
            }
        return {key: value for key, value in values.items() if value is not None}

    def _structure(self, frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        values = {}
        height, width = frames.shape[1:3]
        side = min(height, width)
        if self._wanted("ssim"):
            if side >= WINDOW:
                values["ssim"] = ssim(frames, reference)
            else:
                self._note(f"SSIM is left out at {height} x {width}: its window has {WINDOW} pixels")
        if self._wanted("ms_ssim"):
            window = ms_ssim_window(side)
            if window is None:
                self._note(f"MS-SSIM is left out at {height} x {width}: its five scales need sides above 32 pixels")
                return values
            if window != WINDOW:
                self._note(
                    f"MS-SSIM at {height} x {width} has a window of {window} pixels instead of {WINDOW}, which needs "
                    "sides above 160: do not compare it with values of larger frames"
                )
            values["ms_ssim"] = ms_ssim(frames, reference, window)
        return values

    def _optional_value(self, key: str, frames: np.ndarray, reference: np.ndarray, fps: float) -> float | None:
        """None for what the metric of another package cannot compute: it must not end a run, nor spoil its means."""
        try:
            value = self._optional[key](frames, reference, fps)
            if math.isfinite(value):
                return value
            reason = f"it is {value}"
        except Exception as error:
            reason = one_line(error)
        count, height, width = frames.shape[:3]
        self._note(f"{METRICS[key].title} is left out of clips of {count} x {height} x {width}: {reason}")
        return None

    def _wanted(self, key: str) -> bool:
        return key not in self._without

    def _note(self, sentence: str | None) -> None:
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)
