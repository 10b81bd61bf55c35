"""The checks of `python -m opensora.doctor` that use the packages: devices, weights, and a video of the mini model.

The video is made from text to mp4 and compared with the release's: versions that do not go together often sample
without an error, but badly, which shows here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import av
import numpy as np
import torch
from torch import Tensor

from opensora.cli import mini_reference
from opensora.cli.doctor_packages import Check, Finding, ok, pip, problem, warning
from opensora.cli.verify import BAD, check_piece
from opensora.config.loading import load_config
from opensora.datasets.video_io import read_video, write_video
from opensora.device import triton_problem
from opensora.environment import command_line
from opensora.errors import ConfigError, WeightsError, one_line
from opensora.memory.measure import free_in_cpu_memory
from opensora.weights import hub
from opensora.weights.download import existing_part, free_space
from opensora.weights.layout import PIECES
from opensora.weights.locate import find_piece

PUBLISHED = "configs/sample_adacache.py"
ENCODER = "libx264"
# Largest root mean square of the difference, relative to that of the reference's latents. Other CPU instructions or
# numbers of threads change it by 2e-6, an H100 too, bfloat16 instead of float32 by 0.03; a broken sampler is off by
# about 1. Other GPUs were not tried.
TOLERANCES = {"cpu": 1e-3, "cuda": 5e-2}
SHADE_TOLERANCES = {"cpu": 1.0, "cuda": 4.0}  # gray levels of 255, mean over all blocks of pixels

_SMALL_DISK = 2e9  # bytes; an mp4 is small, but frames that are kept are not
_OLD_CAPABILITY = (8, 0)  # GPUs of this capability or above compute in bf16
_DOWNLOAD = f"{command_line('weights')} download"
_FPS = 8
_LOSS = 6.0  # gray levels of 255; what H.264 at CRF 18 changes is well below


def sections(config: str | None) -> Iterator[tuple[str, list[Check]]]:
    """Yield titles and checks, like `opensora.cli.doctor.sections`."""
    yield "devices", [check_devices]
    yield "memory and disk", [check_space]
    yield "video", [check_encoder]
    yield "weights of the published model", [lambda: check_weights(PUBLISHED, required=False)]
    if config is not None:
        yield f"weights of {config}", [lambda: check_weights(config, required=True)]
    yield "sampling", [check_weights_unchanged, check_sampling]


def check_devices() -> list[Finding]:
    """Name the CUDA devices, or say why there is none where one could be expected."""
    count = torch.cuda.device_count()
    findings = [_describe_cuda(index) for index in range(count)]
    if not count:
        findings.append(_explain_no_cuda(torch.version.cuda, shutil.which("nvidia-smi") is not None))
    elif importlib.util.find_spec("triton") and (missing := triton_problem()):
        what, _, fix = missing.partition("; ")
        findings.append(warning(f"the fused kernel and --compile cannot be used on cuda: {what}", fix))
    return findings


def _describe_cuda(index: int) -> Finding:
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        fix = "end what else runs on it, or restart the machine if its driver was updated"
        return problem(f"cuda:{index} {name} cannot be used: {error}", fix)
    text = f"cuda:{index} {name}, {hub.size_text(free)} of {hub.size_text(total)} free, capability {capability}"
    if capability < _OLD_CAPABILITY:
        return warning(f"{text}; it computes bf16 slowly or not at all", "give --dtype fp16 or fp32")
    return ok(f"{text}, bf16")


def _explain_no_cuda(cuda: str | None, has_driver: bool) -> Finding:
    if not has_driver:
        return ok("no CUDA device; the sampler runs on the CPU")
    if cuda is None:
        fix = "to use the GPU, install a PyTorch build for CUDA as described at pytorch.org/get-started"
        return warning("there is an NVIDIA driver, but this PyTorch is built for the CPU only", fix)
    fix = f"update the driver to one for CUDA {cuda}, and check that CUDA_VISIBLE_DEVICES does not hide the GPU"
    return warning(f"there is an NVIDIA driver and PyTorch is built for CUDA {cuda}, but it sees no device", fix)


def check_space() -> list[Finding]:
    """Check free CPU memory, and free disk space where results and downloads go."""
    free = free_in_cpu_memory()
    findings = [] if free is None else [ok(f"{hub.size_text(free)} of CPU memory are free")]
    for what, folder, other in (
        ("the working directory", Path.cwd(), "change to another folder"),
        ("the hub's cache", hub.cache_folder(), "set HF_HOME to a folder of your own"),
    ):
        existing, left = existing_part(folder), free_space(folder)
        text = f"{hub.size_text(left)} are free for {what} ({folder})"
        findings.append(ok(text) if left >= _SMALL_DISK else warning(text, f"make room, or {other}"))
        if not os.access(existing, os.W_OK):
            findings.append(warning(f"{what} ({folder}) cannot be written to", other))
    return findings


def check_encoder() -> list[Finding]:
    """Check that PyAV has the H.264 encoder; not every build does."""
    if ENCODER not in av.codecs_available:
        fix = pip("install --force-reinstall --no-deps av (its wheels have it; builds of distributions may not)")
        return [problem(f"av {av.__version__} is built without {ENCODER}, so no mp4 can be written", fix)]
    version = ".".join(map(str, av.library_versions.get("libavcodec", ("of unknown version",))))
    return [ok(f"{ENCODER} is available in FFmpeg's libavcodec {version}")]


def check_weights(config_path: str, required: bool) -> list[Finding]:
    """Check every piece that a config names, reading little more than the headers of its files.

    Args:
        required: whether a config that cannot be used, or a piece that cannot be downloaded, is a problem.
    """
    try:
        config = load_config(config_path)
    except ConfigError as error:
        if required:
            return [problem(str(error), f"correct {config_path}, or give another config")]
        return [ok(f"{config_path} is not part of this installation, so no weights were looked for")]
    findings, absent = [], []
    for name, label in PIECES.items():
        section = getattr(config, name)
        try:
            piece = find_piece(name, section.from_pretrained, config.weights_dir)
        except WeightsError as error:
            findings.append(problem(f"{label}: {error}", f"correct {name}.from_pretrained in {config_path}"))
            continue
        if piece.repo is not None and not piece.is_complete:
            absent.append(f"{label} {piece.wanted}")
            continue
        again = f"copy {piece.wanted} again, or correct {name}.from_pretrained"
        fix = again if piece.repo is None else f"delete {piece.path} and run: {_DOWNLOAD} {quote(config_path)}"
        for state, sentence in check_piece(piece, section.type):
            text = f"{label} {piece.wanted}: {sentence}"
            findings.append(problem(text, fix) if state in BAD else ok(text))
    if absent:
        text = f"not (completely) on this machine: {', '.join(absent)}"
        findings.append(_explain_absent(text, required, config_path))
    return findings


def _explain_absent(text: str, required: bool, config_path: str) -> Finding:
    download = f"{_DOWNLOAD} {quote(config_path)}"
    if not required:
        return warning(text, f"run: {download}, if you want the published model")
    if hub.is_reachable():
        return warning(f"{text}; the first run downloads it", f"run: {download} to fetch it beforehand")
    fix = f"{download} --weights-dir DIR where there is a network, copy DIR here, and give --weights-dir DIR"
    return problem(f"{text}, and {hub.why_unreachable()}", f"run: {fix}")


def check_weights_unchanged() -> list[Finding]:
    """Check that the mini model is the one that the reference was made with."""
    if not mini_reference.REFERENCE.is_file():
        fix = "run this command in a checkout of the repository, whose assets hold the mini model"
        return [warning("the mini model is not part of this installation, so nothing was sampled", fix)]
    present = mini_reference.weight_checksums()
    findings = []
    for name, checksum in mini_reference.read_reference().checksums.items():
        if present.get(name) != checksum:
            text = f"{mini_reference.MODEL_FOLDER / name} is {'damaged or changed' if name in present else 'missing'}"
            findings.append(problem(text, f"run: git checkout {mini_reference.MODEL_FOLDER}"))
    return findings or [ok("the mini model's weights are those of the release")]


def check_sampling() -> list[Finding]:
    """Sample on the CPU, and on the first CUDA device if there is one; write an mp4 of the last video and read it."""
    if any(finding.state != "ok" for finding in check_weights_unchanged()):
        return []  # reported already, and a comparison would mislead
    expected = mini_reference.read_reference()
    findings: list[Finding] = []
    frames = None
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        started = time.monotonic()
        try:
            video = mini_reference.sample_mini(device)
        except Exception as error:
            if device == "cpu":
                raise
            # What fails on the GPU says nothing about the CPU, whose findings are kept.
            text = f"sampling the mini model on {device} failed: {one_line(error)}"
            findings.append(
                problem(text, "free the card, compare its driver with PyTorch's CUDA, or give --device cpu")
            )
            continue
        findings.append(_compare(video, expected, device, time.monotonic() - started))
        frames = video.frames
    return findings if frames is None else [*findings, _check_mp4(frames)]


def _compare(
    video: mini_reference.MiniVideo, expected: mini_reference.Reference, device: str, seconds: float
) -> Finding:
    what = f"{mini_reference.STEPS} steps of the mini model on {device} ({seconds:.1f} s)"
    fix = f"compare the versions above with requirements.txt, and {pip('install -r requirements.txt')}"
    latents, limit = _relative_error(video.latents, expected.latents), TOLERANCES[device]
    if not latents <= limit:  # also for NaN
        text = f"{what} give latents unlike the release's: relative error {latents:.1e}, at most {limit:g} is allowed"
        return problem(text, fix)
    shades = (mini_reference.block_means(video.frames) - expected.shades).abs().mean().item()
    limit_shades = SHADE_TOLERANCES[device]
    if not shades <= limit_shades:
        text = f"{what} decode to a video unlike the release's: {shades:.1f} gray levels off, at most "
        return problem(f"{text}{limit_shades:g} is allowed", fix)
    text = f"{what} give the video of the release: relative error of latents {latents:.1e} (at most {limit:g}), "
    return ok(f"{text}of pixels {shades:.2f} gray levels (at most {limit_shades:g})")


def _relative_error(latents: Tensor, expected: Tensor) -> float:
    if latents.shape != expected.shape:
        return float("inf")
    return ((latents - expected).square().mean() / expected.square().mean()).sqrt().item()


def _check_mp4(frames: np.ndarray) -> Finding:
    with tempfile.TemporaryDirectory(prefix="opensora-doctor-") as folder:
        read, fps = read_video(write_video(Path(folder) / "clip.mp4", frames, _FPS))
    same_size = read.shape == frames.shape and fps == _FPS
    loss = float(np.abs(read.astype(int) - frames).mean()) if same_size else float("inf")
    if loss > _LOSS:
        text = f"an mp4 of {frames.shape} comes back as {read.shape}, {loss:.1f} gray levels off"
        return problem(text, pip("install --force-reinstall --no-deps av"))
    return ok(f"its mp4 is read back as it was written ({loss:.1f} gray levels off, at most {_LOSS:g})")
