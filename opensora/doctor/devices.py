"""What can be computed on, and how much fits into memory and onto the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from opensora.doctor.finding import Finding, ok, problem, warning

_SMALL_DISK = 2e9  # bytes; an mp4 is small, but frames that are kept are not
_OLD_CAPABILITY = (8, 0)  # from here on GPUs compute in bf16


def check_devices() -> list[Finding]:
    """CUDA devices by name, and why there is none where one could be expected."""
    import torch

    count = torch.cuda.device_count()
    findings = [_describe_cuda(index) for index in range(count)]
    if not count:
        findings.append(_explain_no_cuda(torch.version.cuda, shutil.which("nvidia-smi") is not None))
    if torch.backends.mps.is_available():
        findings.append(ok("Apple's GPU (MPS) is there, but not used: the sampler knows CUDA and the CPU"))
    return findings


def check_space() -> list[Finding]:
    """Free memory of the CPU, free space where results and downloads go."""
    from opensora.memory.free import free_in_cpu_memory, size_text

    free = free_in_cpu_memory()
    findings = [] if free is None else [ok(f"{size_text(free)} of CPU memory are free")]
    for what, folder in (("the working directory", Path.cwd()), ("the hub's cache", _hub_cache())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        left = shutil.disk_usage(existing).free
        text = f"{size_text(left)} are free for {what} ({folder})"
        enough = left >= _SMALL_DISK
        findings.append(ok(text) if enough else warning(text, "make room, or use a folder on another disk"))
        if not os.access(existing, os.W_OK):
            fix = "change to another folder" if folder == Path.cwd() else "set HF_HOME to a folder of your own"
            findings.append(warning(f"{what} ({folder}) cannot be written to", fix))
    return findings


def _describe_cuda(index: int) -> Finding:
    import torch

    from opensora.memory.free import size_text

    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        fix = "end what else runs on it, or restart the machine if its driver was updated"
        return problem(f"cuda:{index} {name} cannot be used: {error}", fix)
    text = f"cuda:{index} {name}, {size_text(free)} of {size_text(total)} free, capability {capability}"
    if capability < _OLD_CAPABILITY:
        return warning(f"{text}; it computes bf16 slowly or not at all", "give --dtype fp16 or fp32")
    return ok(f"{text}, bf16")


def _explain_no_cuda(cuda: str | None, has_driver: bool) -> Finding:
    if not has_driver:
        return ok("no CUDA device; the sampler runs on the CPU")
    if cuda is None:
        fix = "install a PyTorch build for CUDA as pytorch.org/get-started tells, if the GPU is to be used"
        return warning("there is an NVIDIA driver, but this PyTorch is built for the CPU only", fix)
    fix = f"update the driver to one for CUDA {cuda}, and check that CUDA_VISIBLE_DEVICES does not hide the GPU"
    return warning(f"there is an NVIDIA driver and PyTorch is built for CUDA {cuda}, but it sees no device", fix)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()
