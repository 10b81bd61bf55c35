"""Constants of the comparison policies that have to be measured on the model at hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adacache.calibration.plan import Clip
from adacache.calibration.recorder import PolicyCalibration, SignalRecorder, fit_policies
from adacache.calibration.runner import Runner

__all__ = ["PolicyCalibration", "calibrate_policies"]


def calibrate_policies(runner: Runner, clips: Sequence[Clip]) -> PolicyCalibration:
    """Run the clips without reuse, once each, and fit TeaCache's polynomial and MagCache's ratios.

    Raises:
        ValueError: too few steps and clips for a fit.
    """
    recorder = SignalRecorder(runner.num_steps)
    inputs, outputs, ratios = [], [], []

    def collect(_latents: object) -> None:
        inputs.append(np.stack(recorder.input_changes, axis=1))  # (videos, steps - 1)
        outputs.append(np.stack(recorder.output_changes, axis=1))
        ratios.append(np.stack(recorder.ratios, axis=1))

    runner.sample(clips, recorder, collect)
    return fit_policies(np.concatenate(inputs), np.concatenate(outputs), np.concatenate(ratios))
