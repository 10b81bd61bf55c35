"""Sampling with Latte and Open-Sora-Plan against trajectories of their reference implementations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from adacache import AdaCacheConfig, MoRegConfig, StepController
from opensora.models.latte import LatteModel, OpenSoraPlanModel
from opensora.schedulers.diffusion import DiffusionSampler

GOLDEN = Path(__file__).parents[2] / "golden"
METRIC_BLOCK = 2  # of the tiny Latte's 4
GUIDANCE = 7.5


class Embeddings:
    """Text that is encoded already."""

    def __init__(self, vectors: dict[str, Tensor]) -> None:
        self.positive, self.negative = (vectors[f"in.{name}prompt_embeds"].float() for name in ("", "negative_"))

    def encode(self, prompts):
        return {"y": self.positive[:, None], "mask": torch.ones(self.positive.shape[:2])}

    def null(self, n):
        return self.negative[:, None]


@pytest.fixture(scope="module")
def latte():
    model = LatteModel.from_pretrained(GOLDEN / "latte" / "transformer", dtype=torch.float32)
    meta = json.loads((GOLDEN / "latte" / "meta.json").read_text())
    return model, load_file(GOLDEN / "latte" / "trajectories.safetensors"), meta


@pytest.fixture(scope="module")
def open_sora_plan():
    folder = GOLDEN / "open_sora_plan"
    model = OpenSoraPlanModel.from_pretrained(folder / "transformer", dtype=torch.float32)
    return (
        model,
        load_file(folder / "sampling" / "trajectories.safetensors"),
        json.loads((folder / "meta.json").read_text()),
    )


def sample(golden, sampler: DiffusionSampler, cache: AdaCacheConfig | None = None):
    model, vectors, _ = golden
    controller = None if cache is None else StepController(cache)
    noise = vectors["in.latents"].float()
    latents = sampler.sample(model, Embeddings(vectors), noise, ["x"], "cpu", progress=False, controller=controller)
    return latents, controller


def distance_to(latents: Tensor, expected: Tensor) -> float:
    """Largest difference, in parts of the largest value."""
    return float((latents - expected).abs().max() / expected.abs().max())


def codebook(pairs) -> list[tuple[float, int]]:
    return [tuple(pair) for pair in pairs]


def moreg_of(meta) -> MoRegConfig:
    scale, power, divisor = meta["hyp"]
    return MoRegConfig(
        scale=scale,
        power=power,
        divisor=divisor,
        gradient_weight=meta["mograd_mul"],
        strides=tuple(meta["strides"]),
        window=tuple(meta["steps"]),
    )


def check_log(controller: StepController, log) -> None:
    """Distances, motion and rates of all computed calls."""
    records = [record for record in controller.trace.records if record.computed]
    assert [record.index + 1 for record in records] == [entry["call"] for entry in log]
    for record, entry in zip(records, log, strict=True):
        for ours, theirs in ((record.distance, "distance"), (record.value, "metric"), (record.motion_score, "motion")):
            if entry[theirs] is not None and ours is not None:
                assert ours == pytest.approx(entry[theirs], rel=1e-4 if theirs == "distance" else 1e-3)
        assert record.rate in (entry["rate"], None)


def test_latte_without_cache(latte):
    latents, _ = sample(latte, DiffusionSampler("ddim", 20, GUIDANCE))
    assert distance_to(latents, latte[1]["baseline.latents_after_step"][-1]) < 1e-3


def test_latte_with_adacache(latte):
    cache = AdaCacheConfig(codebook=codebook(latte[2]["codebook"]), metric_blocks=(METRIC_BLOCK,), schedule="batch")
    latents, controller = sample(latte, DiffusionSampler("ddim", 20, GUIDANCE), cache)
    check_log(controller, latte[2]["adacache"]["log"])
    assert distance_to(latents, latte[1]["adacache.latents_after_step"][-1]) < 1e-3


def test_latte_with_moreg(latte):
    cache = AdaCacheConfig(
        codebook=codebook(latte[2]["codebook"]),
        metric_blocks=(METRIC_BLOCK,),
        moreg=moreg_of(latte[2]["moreg"]),
        schedule="batch",
    )
    latents, controller = sample(latte, DiffusionSampler("ddim", 20, GUIDANCE), cache)
    computed = [step + 1 for step in controller.trace.computed_steps]
    assert computed == latte[2]["adacache_moreg"]["computed_steps_one_based"]
    assert distance_to(latents, latte[1]["adacache_moreg.latents_after_step"][-1]) < 1e-3


@pytest.mark.parametrize(("solver", "tolerance"), [("ddim", 1e-3), ("pndm", 2e-5), ("euler", 2e-5)])
def test_open_sora_plan_without_cache(open_sora_plan, solver, tolerance):
    meta = open_sora_plan[2]["sampling"]["schedulers"][solver]
    sampler = DiffusionSampler(solver, 10, GUIDANCE)
    assert sampler.timesteps() == meta["timesteps"]
    assert sampler.num_model_calls == meta["transformer_calls"]
    latents, _ = sample(open_sora_plan, sampler)
    assert distance_to(latents, open_sora_plan[1][f"{solver}.latents_after_call"][-1]) < tolerance


@pytest.mark.parametrize(("solver", "tolerance"), [("ddim", 1e-3), ("pndm", 2e-5)])
def test_open_sora_plan_with_adacache(open_sora_plan, solver, tolerance):
    model, vectors, meta = open_sora_plan
    run = meta["adacache"]["runs"][solver]
    cache = AdaCacheConfig(
        codebook=codebook(run["codebook"]), metric_blocks=(model.config.depth // 2,), schedule="batch"
    )
    latents, controller = sample(open_sora_plan, DiffusionSampler(solver, run["num_inference_steps"], GUIDANCE), cache)
    assert controller.trace.num_steps == run["transformer_calls"]
    assert [step + 1 for step in controller.trace.computed_steps] == run["computed_calls_one_based"]
    check_log(controller, run["log"])
    assert distance_to(latents, vectors[f"ada_{solver}.latents_after_call"][-1]) < tolerance
