"""Rectified flow against the reference trajectories, and its handling of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from opensora.schedulers.rf import RFLOW, NonFiniteLatentsError, timestep_transform
from opensora.schedulers.rf.frame_mask import add_noise
from support.reference_model import StoredText, load_reference, stored_size

FOLDER = Path(__file__).parents[2] / "golden" / "rflow"
CASES = json.loads((FOLDER / "meta.json").read_text())["cases"]
TRANSFORM_ROWS = json.loads((FOLDER / "timestep_transform.json").read_text())["rows"]


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "inputs.safetensors")


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "outputs.safetensors")


@pytest.fixture(scope="module")
def model(golden: Path):
    return load_reference(golden, "main")


@pytest.mark.parametrize("name", CASES)
def test_trajectory_equals_the_reference(model, inputs, outputs, name, monkeypatch):
    case = CASES[name]
    if f"{name}.noise" in inputs:
        draws = iter(inputs[f"{name}.noise"])
        monkeypatch.setattr(torch, "randn", lambda *_, **__: next(draws))
    scheduler = RFLOW(
        num_sampling_steps=case["steps"],
        cfg_scale=case["cfg_scale"],
        use_timestep_transform=case["use_timestep_transform"],
    )
    z = inputs[f"{name}.z"]
    size = stored_size(inputs, name)
    x_masks = []
    hook = model.register_forward_pre_hook(lambda _, __, kwargs: x_masks.append(kwargs["x_mask"]), with_kwargs=True)
    final = scheduler.sample(
        model,
        StoredText(inputs, name),
        z,
        [""] * len(z),
        "cpu",
        additional_args=size,
        mask=inputs.get(f"{name}.z_mask"),
        progress=False,
    )
    hook.remove()
    assert (final - outputs[f"{name}.final"]).abs().max() <= 2e-4
    times = torch.stack(scheduler.timesteps(len(z), "cpu", size))
    assert torch.allclose(times, outputs[f"{name}.timesteps"], rtol=1e-6)
    if f"{name}.x_mask" in outputs:
        assert torch.equal(torch.stack(x_masks), outputs[f"{name}.x_mask"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_timestep_transform_equals_the_reference(dtype):
    checked = 0
    for row in TRANSFORM_ROWS:
        if 1 < row["num_frames"] < 17:
            continue  # the reference divides by zero there; see the next test
        size = {key: torch.tensor([row[key]], dtype=getattr(torch, dtype)) for key in ("height", "width", "num_frames")}
        for i, expected in enumerate(row[f"timesteps_{dtype}"]):
            t = torch.tensor([(1 - i / row["steps"]) * 1000])
            assert timestep_transform(t, size).item() == pytest.approx(expected, rel=1e-6)
            checked += 1
    assert checked > 100


def test_half_precision_sizes_do_not_overflow():
    def times(dtype):
        values = {"height": 720.0, "width": 1280.0, "num_frames": 51.0}
        size = {key: torch.tensor([value], dtype=dtype) for key, value in values.items()}
        return timestep_transform(torch.tensor([500.0]), size)

    assert times(torch.float16).item() == pytest.approx(times(torch.float32).item())


def test_short_clips_get_the_times_of_their_latent_frames():
    def size(frames):
        return {"height": torch.tensor([512.0]), "width": torch.tensor([512.0]), "num_frames": torch.tensor([frames])}

    # 13 frames have 4 latent frames: ratio sqrt(4) = 2, so u = 1/2 moves to 2 * .5 / (1 + .5) = 2/3.
    assert timestep_transform(torch.tensor([500.0]), size(13.0)).item() == pytest.approx(1000 * 2 / 3)
    # One frame at 512 x 512 is where the transform changes nothing.
    assert timestep_transform(torch.tensor([500.0]), size(1.0)).item() == pytest.approx(500)


def test_noise_is_added_on_a_straight_line():
    clean, noise = torch.zeros(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    assert add_noise(clean, noise, torch.tensor([250.0])).item() == 0.25


class ConstantText:
    def encode(self, prompts):
        return {"y": torch.zeros(len(prompts), 1, 2, 3), "mask": torch.ones(len(prompts), 2)}

    def null(self, n):
        return torch.zeros(n, 1, 2, 3)


class ConstantVelocity(torch.nn.Module):
    """Velocity 3 with the prompt and 1 without; NaN from a given call on."""

    def __init__(self, nan_from: int = 10**9):
        super().__init__()
        self.calls, self.nan_from = 0, nan_from

    def forward(self, x, timestep, y, mask=None, x_mask=None, **kwargs):
        self.calls += 1
        cond, uncond = x.chunk(2)
        out = torch.cat([torch.full_like(cond, 3.0), torch.full_like(uncond, 1.0)])
        return out * float("nan") if self.calls >= self.nan_from else out


def test_guidance_and_step_sizes_add_up():
    # Guided velocity 1 + 2 * (3 - 1) = 5 over the whole unit of time, however many steps it takes.
    for steps in (1, 7):
        out = RFLOW(num_sampling_steps=steps, cfg_scale=2.0).sample(
            ConstantVelocity(), ConstantText(), torch.zeros(1, 4, 1, 2, 2), ["x"], "cpu", progress=False
        )
        assert torch.allclose(out, torch.full_like(out, 5.0))


def test_guidance_scale_of_the_call_replaces_the_configured_one():
    out = RFLOW(num_sampling_steps=2, cfg_scale=2.0).sample(
        ConstantVelocity(), ConstantText(), torch.zeros(1, 4, 1, 2, 2), ["x"], "cpu", guidance_scale=1.0, progress=False
    )
    assert torch.allclose(out, torch.full_like(out, 3.0))


def test_the_times_that_are_told_before_a_run_are_those_of_its_calls():
    scheduler, model, times = RFLOW(num_sampling_steps=3, use_timestep_transform=True), ConstantVelocity(), []
    model.register_forward_pre_hook(lambda _, arguments: times.append(arguments[1][0].item()))
    size = {"height": 256, "width": 320, "num_frames": 51}
    tensors = {name: torch.tensor([float(value)]) for name, value in size.items()}
    z = torch.zeros(1, 4, 1, 2, 2)
    scheduler.sample(model, ConstantText(), z, ["x"], "cpu", additional_args=tensors, progress=False)
    assert scheduler.times_of_calls(**size) == tuple(times)
    assert len(times) == 3 and times[0] == 1000


def test_non_finite_latents_stop_the_run_and_name_the_step():
    with pytest.raises(NonFiniteLatentsError, match=r"step 4 of 6 \(timestep 500.0\)"):
        RFLOW(num_sampling_steps=6).sample(
            ConstantVelocity(nan_from=4), ConstantText(), torch.zeros(1, 4, 1, 2, 2), ["x"], "cpu", progress=False
        )


def test_the_transform_without_sizes_is_refused():
    with pytest.raises(ValueError, match="needs height, width and num_frames"):
        RFLOW(num_sampling_steps=2, use_timestep_transform=True).timesteps(1, "cpu", {})


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_sampling_steps is 0"):
        RFLOW(num_sampling_steps=0)
