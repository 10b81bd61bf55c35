"""Packages that the sampler does not need, but that diffusers and transformers import when they are there."""

from __future__ import annotations

from opensora.doctor.finding import Finding, ok, problem, warning
from opensora.doctor.packages import import_error, installed_version, is_importable, release

# torchvision 0.N is built for torch 2.(N - 15), and refuses to load with another one.
_TORCHVISION_OFFSET = 15

# Module -> (distribution, import statement that reaches its compiled part).
_ACCELERATORS = {
    "xformers": ("xformers", "import xformers.ops"),
    "flash_attn": ("flash-attn", "import flash_attn"),
    "apex": ("apex", "import torch, apex.normalization"),
}


def check_torchvision() -> list[Finding]:
    """A torchvision that does not fit keeps T5 and the autoencoder from being imported."""
    if not is_importable("torchvision"):
        return [ok("torchvision is not installed; none is needed")]
    name = _name("torchvision", "torchvision")
    fix = "run: pip uninstall torchvision (nothing here needs it), or install the one that belongs to your PyTorch"
    reason = import_error("import torchvision; torchvision.ops.nms")
    if reason is not None:
        return [problem(f"{name} is installed but cannot be imported ({reason}); transformers fails with it", fix)]
    vision, torch = installed_version("torchvision"), installed_version("torch")
    if vision and torch and not _is_pair(vision, torch):
        return [warning(f"{name} was not made for torch {torch}", fix)]
    return [ok(f"{name} fits")]


def check_accelerators() -> list[Finding]:
    """xformers, flash-attn and apex: not used here, harmful if they do not fit."""
    findings = []
    for module, (distribution, statement) in _ACCELERATORS.items():
        if not is_importable(module):
            continue
        name = _name(module, distribution)
        reason = import_error(statement)
        if reason is not None:
            text = f"{name} is installed but cannot be imported ({reason}); diffusers or transformers may fail with it"
            findings.append(problem(text, f"run: pip uninstall {distribution} (PyTorch's own attention is used)"))
        elif module == "apex" and release(installed_version("transformers") or "5") < (5,):
            text = f"{name} replaces T5's layer norm in this version of transformers; features differ in the last bits"
            findings.append(warning(text, "run: pip uninstall apex, if results are to be those of other machines"))
        else:
            findings.append(ok(f"{name} fits, and is not used"))
    return findings or [ok("no xformers, flash-attn or apex; none is needed")]


def _is_pair(vision: str, torch: str) -> bool:
    vision_release, torch_release = release(vision), release(torch)
    return vision_release[:1] == (0,) and torch_release[:2] == (2, vision_release[1] - _TORCHVISION_OFFSET)


def _name(module: str, distribution: str) -> str:
    return f"{module} {installed_version(distribution) or 'of unknown version'}"
