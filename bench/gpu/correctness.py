"""Check that the device computes what the reference does: the golden vectors, and the bundled model."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adacache import AdaCacheConfig, StepController
from bench.gpu.report import Check, largest, largest_difference, relative_error
from opensora.cli import mini_reference
from opensora.files import REPO_ROOT
from opensora.models.layers.attention import SelfAttention
from opensora.models.stdit import STDiT3
from opensora.models.vae import VideoAutoencoderPipeline
from opensora.models.vae.layerwise import TilingConfig
from opensora.schedulers.rf import RFLOW

GOLDEN = REPO_ROOT / "tests/golden"
FORWARD_CASES = ("plain", "odd_hw", "x_mask", "x_mask_odd_hw_b1", "x_mask_all_true", "image", "cfg_pair", "no_mask")
# As in the tests on the CPU; a GPU sums in another order, with all bits in float32.
FORWARD_LIMITS = {torch.float32: 5e-5, torch.bfloat16: 0.3, torch.float16: 0.05}
LATENTS_LIMIT = 2e-4  # of whole trajectories
DECODED_LIMIT = 5e-4
ENCODED_LIMIT = 1e-4
MINI_LIMIT = 1e-3
FUSED_LIMITS = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
OFFLOADED_CASES = 4
_TRAJECTORY_SECONDS = 60.0


class StoredText:
    """A text encoder that replays the stored features of one golden case."""

    def __init__(self, tensors: dict[str, Tensor], case: str) -> None:
        self._features = {"y": tensors[f"{case}.y"], "mask": tensors[f"{case}.y_mask"]}
        self._null = tensors[f"{case}.y_null"]

    def encode(self, prompts: Any) -> dict[str, Tensor]:
        """Return the stored features, whatever the prompts are."""
        return self._features

    def null(self, n: int) -> Tensor:
        """Return the stored features of the empty caption."""
        return self._null


@torch.no_grad()
def check_correctness(check: Check) -> None:
    """Check forward passes, trajectories and their schedules, the autoencoder, the bundled model, repeated runs."""
    _forward(check)
    _fused_attention(check)
    _trajectories(check)
    _autoencoder(check)
    _mini(check)


def _tensors(check: Check, file: str) -> dict[str, Tensor]:
    return {name: tensor.to(check.device) for name, tensor in load_file(GOLDEN / file).items()}


def _forward(check: Check) -> None:
    inputs, outputs = (
        _tensors(check, "stdit3/forward/inputs.safetensors"),
        _tensors(check, "stdit3/forward/outputs.safetensors"),
    )
    for dtype, limit in FORWARD_LIMITS.items():
        model = STDiT3.from_pretrained(GOLDEN / "stdit3/model", dtype=dtype, device=check.device)
        errors = []
        for case in FORWARD_CASES:
            arguments = {name.split(".", 1)[1]: value for name, value in inputs.items() if name.startswith(f"{case}.")}
            errors.append(largest_difference(model(**arguments), outputs[f"{case}.out"]))
        what = f"STDiT3 forward, {len(FORWARD_CASES)} cases, {_name(dtype)}: largest difference"
        check.error(what, largest(errors), limit)


def _fused_attention(check: Check) -> None:
    """Check the Triton kernel against the layers that it replaces, at several lengths and head sizes."""
    if check.tiny:
        return check.note("attention along time in one kernel", "runs on a GPU only")
    for dtype, limit in FUSED_LIMITS.items():
        errors = []
        for frames, heads, size in ((15, 16, 72), (1, 2, 72), (17, 4, 64), (30, 16, 72), (60, 16, 72), (5, 2, 128)):
            layer = SelfAttention(heads * size, heads, qk_norm=True).to(check.device, dtype)
            torch.nn.init.normal_(layer.q_norm.weight, 1.0, 0.2)
            torch.nn.init.normal_(layer.k_norm.weight, 1.0, 0.2)
            x = check.randn(70, frames, heads * size, dtype=dtype)
            angles = torch.outer(torch.arange(frames, device=check.device), torch.rand(size // 2, device=check.device))
            fused = layer(x, (angles.cos(), angles.sin()))
            layer.float().fuse = False
            errors.append(relative_error(fused, layer(x.float(), (angles.cos(), angles.sin()))))
        what = f"attention along time in one kernel against float32, {_name(dtype)}: relative error"
        check.error(what, largest(errors), limit)


def _trajectories(check: Check) -> None:
    folder = GOLDEN / "adacache"
    cases = json.loads((folder / "cases.json").read_text())
    inputs, outputs = (_tensors(check, f"adacache/{name}.safetensors") for name in ("inputs", "outputs"))
    models: dict[Path, STDiT3] = {}

    def sample(case: dict[str, Any], **changes: Any) -> tuple[Tensor, list[int]]:
        path = folder / "model_100" if "model_100" in case["model"] else GOLDEN / "stdit3/model"
        if path not in models:
            models[path] = STDiT3.from_pretrained(path, device=check.device)
        group = case["inputs"]
        controller = StepController(replace(AdaCacheConfig.from_dict(case["config"]), **changes))
        scheduler = RFLOW(case["steps"], cfg_scale=case["cfg_scale"], use_timestep_transform=True)
        size = {name: inputs[f"{group}.{name}"] for name in ("height", "width", "num_frames", "ar", "fps")}
        latents = scheduler.sample(
            models[path],
            StoredText(inputs, group),
            inputs[f"{group}.z"],
            [""] * len(inputs[f"{group}.z"]),
            check.device,
            additional_args=size,
            mask=inputs.get(f"{group}.z_mask"),
            progress=False,
            controller=controller,
            compat=True,
        )
        return latents, controller.trace.computed_steps

    # Short ones first: on a slow machine there may be no time for the long ones.
    ordered = sorted(cases, key=lambda case: case["steps"])[: 2 if check.tiny else None]
    for changes, chosen in (({}, ordered), ({"cache_device": "cpu"}, ordered[:OFFLOADED_CASES])):
        others, errors, began = [], [], time.monotonic()
        for case in chosen:
            if time.monotonic() - began > _TRAJECTORY_SECONDS:
                break
            latents, computed = sample(case, **changes)
            if [step + 1 for step in computed] != case["recomputed_steps"]:
                others.append(case["name"])
            errors.append(largest_difference(latents, outputs[f"{case['name']}.final"]))
        what = f"AdaCache trajectories{' with cache_device cpu' if changes else ''}, {len(errors)} of {len(cases)}"
        if others:
            check.wrong(f"{what}: other schedules", ", ".join(others))
        else:
            check.note(f"{what}: schedules", "as the reference")
        check.error(f"{what}: largest difference of latents", largest(errors), LATENTS_LIMIT)
    first, again = (sample(ordered[0])[0] for _ in range(2))
    if torch.equal(first, again):
        check.note("two runs", "the same bytes")
    else:
        check.wrong("two runs", f"differ by up to {largest_difference(first, again):.1e}")


def _autoencoder(check: Check) -> None:
    vae = VideoAutoencoderPipeline.from_pretrained(GOLDEN / "vae/model", device=check.device)
    inputs, outputs = _tensors(check, "vae/inputs.safetensors"), _tensors(check, "vae/outputs.safetensors")
    whole = vae.decode(outputs["z_mode_51"], 51)
    check.error("VAE decode, float32: largest difference", largest_difference(whole, outputs["dec_51"]), DECODED_LIMIT)
    vae.tiling = TilingConfig(2)
    tiled = vae.decode(outputs["z_mode_51"], 51)
    vae.tiling = None
    check.error(
        "VAE decode, tiles against the whole: largest difference", largest_difference(tiled, whole), DECODED_LIMIT
    )
    video = inputs["video"].float()[:, :, :20]
    latents = vae.encode(video, sample_posterior=False)
    check.error(
        "VAE encode, float32: largest difference", largest_difference(latents, outputs["z_mode_20"]), ENCODED_LIMIT
    )
    drawn = [
        model.encode(video.to(model.device), sample_posterior=True, generator=torch.Generator().manual_seed(0))
        for model in (vae, VideoAutoencoderPipeline.from_pretrained(GOLDEN / "vae/model"))
    ]
    what = "VAE encode, drawn by a generator of the CPU, against the CPU: largest difference"
    check.error(what, largest_difference(*drawn), ENCODED_LIMIT)


def _mini(check: Check) -> None:
    expected = mini_reference.read_reference()
    sampled = mini_reference.sample_mini(str(check.device))
    what = f"{mini_reference.STEPS} steps of the bundled model, float32: relative error of latents"
    check.error(what, relative_error(sampled.latents, expected.latents), MINI_LIMIT)
    shades = (mini_reference.block_means(sampled.frames) - expected.shades).abs().mean().item()
    check.error("  pixels, gray levels of 255", shades, 1.0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
