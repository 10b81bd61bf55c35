"""All reference AdaCache trajectories: schedules, distances, motion terms and final latents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adacache import AdaCacheConfig, StepController
from opensora.models.stdit import STDiT3
from opensora.schedulers.rf import RFLOW
from support.reference_model import StoredText, load_reference, stored_size

FOLDER = Path(__file__).parents[1] / "golden" / "adacache"
CASES = json.loads((FOLDER / "cases.json").read_text())


@pytest.fixture(scope="module")
def models(golden: Path) -> dict[str, STDiT3]:
    return {name: load_reference(golden, name) for name in ("main", "100")}


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "inputs.safetensors")


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    return load_file(FOLDER / "outputs.safetensors")


def sample(case: dict, model: STDiT3, inputs: dict, controller: StepController | None) -> torch.Tensor:
    group = case["inputs"]
    scheduler = RFLOW(num_sampling_steps=case["steps"], cfg_scale=case["cfg_scale"], use_timestep_transform=True)
    z = inputs[f"{group}.z"]
    return scheduler.sample(
        model,
        StoredText(inputs, group),
        z,
        [""] * len(z),
        "cpu",
        additional_args=stored_size(inputs, group),
        mask=inputs.get(f"{group}.z_mask"),
        progress=False,
        controller=controller,
        compat=True,  # the reference lets held frames count
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_trajectory_equals_the_reference(case, models, inputs, outputs):
    model = models["100" if "model_100" in case["model"] else "main"]
    controller = StepController(AdaCacheConfig.from_dict(case["config"]))
    final = sample(case, model, inputs, controller)

    assert [i + 1 for i in controller.trace.computed_steps] == case["recomputed_steps"]
    expected = outputs[f"{case['name']}.final"]
    assert (final - expected).abs().max() <= 2e-4
    # The last observation of each computed step is the one that decides, and the one the trace reports.
    deciding = {observation["step"]: observation for observation in case["observations"]}
    for record in controller.trace.records:
        observation = deciding.get(record.index + 1)
        if observation is None:
            assert record.value is None
            continue
        assert record.distance == pytest.approx(observation["avg"], rel=1e-5)
        assert record.value == pytest.approx(observation["final"], rel=1e-4)
        assert record.rate == observation["new_rate"]
        if "moreg_pow" in observation:
            assert record.motion_score == pytest.approx(observation["moreg_pow"], rel=1e-4)
            # A difference of two nearly equal scores: small next to them, its own digits are noise.
            scale = max(observation["moreg_pow"], observation["prev_moreg"])
            assert record.motion_gradient == pytest.approx(observation["mograd"], rel=1e-4, abs=1e-4 * scale)


def test_without_a_controller_the_baseline_is_met(models, inputs, outputs):
    case = CASES[0]
    final = sample(case, models["main"], inputs, None)
    assert (final - outputs[case["baseline"]]).abs().max() <= 2e-4


def test_a_run_after_an_interrupted_one_equals_a_fresh_one(models, inputs):
    case, model = CASES[1], models["main"]
    config = AdaCacheConfig.from_dict(case["config"])
    fresh_controller, reused_controller = StepController(config), StepController(config)
    fresh = sample(case, model, inputs, fresh_controller)

    class Interrupted(Exception):
        pass

    calls = 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise Interrupted

    hook = model.register_forward_pre_hook(interrupt)
    with pytest.raises(Interrupted):
        sample(case, model, inputs, reused_controller)
    hook.remove()
    assert reused_controller.nbytes == 0
    again = sample(case, model, inputs, reused_controller)
    assert torch.equal(again, fresh)
    assert reused_controller.trace.computed_steps == fresh_controller.trace.computed_steps


def test_step_count_and_resolution_may_change_between_runs(models, inputs):
    controller = StepController(AdaCacheConfig.from_dict(CASES[0]["config"]))
    model = models["main"]
    for steps, group in ((30, "main"), (20, "b2"), (30, "main")):
        case = {"inputs": group, "steps": steps, "cfg_scale": 7.0}
        fresh = StepController(controller.config)
        assert torch.equal(sample(case, model, inputs, controller), sample(case, model, inputs, fresh))
        assert len(controller.trace.records) == steps


def test_two_interleaved_pipelines_do_not_touch_each_other(models, inputs):
    """Two controllers take turns step by step on one model; each ends as it would alone."""
    model = models["main"]
    config = AdaCacheConfig.from_dict(CASES[1]["config"])
    text = StoredText(inputs, "main")
    size = stored_size(inputs, "main")
    scheduler = RFLOW(num_sampling_steps=30, use_timestep_transform=True)
    times = scheduler.timesteps(1, "cpu", size)

    @torch.no_grad()
    def steps(z, controller):
        y = torch.cat([text.encode([""])["y"], text.null(1)])
        with controller.run(30):
            for i, t in enumerate(times):
                controller.begin_step(i, float(t))
                out = model(
                    torch.cat([z, z]),
                    torch.cat([t, t]),
                    y,
                    mask=text.encode([""])["mask"],
                    **size,
                    controller=controller,
                )
                cond, uncond = out[:, :4].chunk(2)
                following = times[i + 1] if i < 29 else torch.zeros_like(t)
                z = z + (uncond + 7 * (cond - uncond)) * ((t - following) / 1000)
                yield z

    first, second = inputs["main.z"], inputs["main.z"].flip(0, 2)
    alone = [list(steps(z, StepController(config)))[-1] for z in (first, second)]
    together = list(zip(steps(first, StepController(config)), steps(second, StepController(config)), strict=True))
    assert torch.equal(together[-1][0], alone[0])
    assert torch.equal(together[-1][1], alone[1])


def test_the_cache_holds_at_most_two_hidden_states(models, inputs):
    case, model = CASES[0], models["main"]
    controller = StepController(AdaCacheConfig.from_dict(case["config"]))
    held = []
    hook = model.register_forward_hook(lambda *_: held.append(controller.nbytes))
    sample(case, model, inputs, controller)
    hook.remove()
    _, _, frames, height, width = inputs["main.z"].shape
    hidden_state_bytes = 2 * frames * (height // 2) * (width // 2) * model.config.hidden_size * 4
    assert 0 < max(held) <= 2 * hidden_state_bytes
    assert controller.nbytes == 0
