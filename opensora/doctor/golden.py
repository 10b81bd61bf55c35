"""A video of the mini model, from text to mp4, compared with the one of the release.

Versions that do not go together often sample without an error, and badly: this is where it shows.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from opensora.doctor import reference
from opensora.doctor.finding import Finding, ok, problem, warning

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Largest root mean square of the difference, relative to that of the reference's latents. The instruction sets of a CPU
# and numbers of threads differ by 2e-6, float32 and bfloat16 by 0.03, and a broken sampler is off by about 1. GPUs
# compute convolutions with fewer bits.
TOLERANCES = {"cpu": 1e-3, "cuda": 5e-2}
SHADE_TOLERANCES = {"cpu": 1.0, "cuda": 4.0}  # gray levels of 255, mean over all blocks of pixels
_FPS = 8
_LOSS = 6.0  # gray levels of 255; what H.264 at CRF 18 changes is well below

_FIX = "compare the versions above with requirements.txt, and run: pip install -r requirements.txt"


def check_weights_unchanged() -> list[Finding]:
    """Whether the mini model is the one that the reference was made with."""
    if not reference.REFERENCE.is_file():
        fix = "run this command in a checkout of the repository, whose assets hold the mini model"
        return [warning("the mini model is not part of this installation, so nothing was sampled", fix)]
    present = reference.weight_checksums()
    findings = []
    for name, checksum in reference.read_reference().checksums.items():
        if present.get(name) != checksum:
            text = f"{reference.MODEL_FOLDER / name} is {'damaged or changed' if name in present else 'missing'}"
            fix = (
                f"run: git checkout {reference.MODEL_FOLDER} (or, after a new training, "
                "python -m opensora.doctor --write-reference)"
            )
            findings.append(problem(text, fix))
    return findings or [ok("the mini model's weights are those of the release")]


def check_sampling() -> list[Finding]:
    """Sample on the CPU, and on the first CUDA device if there is one; write and read an mp4 of it."""
    if any(finding.state != "ok" for finding in check_weights_unchanged()):
        return []  # said already, and a comparison would mislead
    import torch

    expected = reference.read_reference()
    findings: list[Finding] = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        started = time.monotonic()
        sampled = reference.sample_mini(device)
        seconds = time.monotonic() - started
        findings += _compare(sampled, expected, device, seconds)
    return findings + _check_mp4(sampled.frames)


def _compare(sampled: reference.Sampled, expected: reference.Reference, device: str, seconds: float) -> list[Finding]:
    latents = _relative_error(sampled.latents, expected.latents)
    what = f"{reference.STEPS} steps of the mini model on {device} ({seconds:.1f} s)"
    limit = TOLERANCES[device]
    if not latents <= limit:  # also for NaN
        text = f"{what} give other latents than the release: relative error {latents:.1e}, at most {limit:g} is right"
        return [problem(text, _FIX)]
    shades = (reference.block_means(sampled.frames) - expected.shades).abs().mean().item()
    limit_shades = SHADE_TOLERANCES[device]
    if not shades <= limit_shades:
        text = (
            f"{what} decode to another video than the release's: {shades:.1f} gray levels off, at most "
            f"{limit_shades:g} is right"
        )
        return [problem(text, _FIX)]
    return [
        ok(
            f"{what} give the video of the release: relative error of latents {latents:.1e} (at most {limit:g}), "
            f"of pixels {shades:.2f} gray levels (at most {limit_shades:g})"
        )
    ]


def _relative_error(latents: Tensor, expected: Tensor) -> float:
    if latents.shape != expected.shape:
        return float("inf")
    return ((latents - expected).square().mean() / expected.square().mean()).sqrt().item()


def _check_mp4(frames: np.ndarray) -> list[Finding]:
    import numpy as np

    from opensora.datasets.video_io import read_video, write_video

    with tempfile.TemporaryDirectory(prefix="opensora-doctor-") as folder:
        read, fps = read_video(write_video(Path(folder) / "clip.mp4", frames, _FPS))
    same_size = read.shape == frames.shape and fps == _FPS
    loss = float(np.abs(read.astype(int) - frames).mean()) if same_size else float("inf")
    if loss > _LOSS:
        text = f"an mp4 of {frames.shape} comes back as {read.shape}, {loss:.1f} gray levels off"
        return [problem(text, "run: pip install --force-reinstall --no-deps av")]
    return [ok(f"its mp4 is read back as it was written ({loss:.1f} gray levels off, at most {_LOSS:g})")]
