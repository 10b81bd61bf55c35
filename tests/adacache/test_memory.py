"""The promise: no run holds more than was said before, and every run comes to hold it."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

import pytest
import torch

from adacache import AdaCacheConfig, Codebook, Site, StepController
from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.policies.base import Policy, PolicyConfig
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.multistep import MultistepConfig
from adacache.policies.pab import PABConfig
from adacache.policies.seacache import SeaCacheConfig
from adacache.policies.static import StaticScheduleConfig
from adacache.policies.teacache import TeaCacheConfig

STEPS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RATE = Codebook((), (2,))
BLOCKS = 3  # of each stream
MULTISTEP = dict(computed_steps=(0, 1, 5), num_sampling_steps=STEPS, coefficients=(((1.0,), (1.0,)),) * 3)


class Case(NamedTuple):
    """A config, the tensors for reuse of one context, and the measured ones: once, and for every context."""

    config: PolicyConfig
    residuals: int
    observed: int
    observed_per_context: int = 0


CASES = {
    "t-attn": Case(AdaCacheConfig(RATE, "t-attn", (1,)), 1, 1),
    "s-attn in 2 blocks": Case(AdaCacheConfig(RATE, "s-attn", (0, 2)), 1, 2),
    "ca-mlp": Case(AdaCacheConfig(RATE, "ca-mlp", (1,)), 1, 2),
    "ca-mlp in 2 blocks": Case(AdaCacheConfig(RATE, "ca-mlp", (0, 2)), 1, 4),
    "moreg": Case(AdaCacheConfig(RATE, metric_blocks=(1,), moreg=True), 1, 1),
    "linear": Case(AdaCacheConfig(RATE, metric_blocks=(1,), bridge="linear"), 2, 1),
    "fitted": Case(AdaCacheConfig(RATE, metric_blocks=(1,), bridge="fitted"), 2, 1),
    "one schedule": Case(AdaCacheConfig(RATE, metric_blocks=(1,), bridge="fitted", schedule="batch"), 2, 1),
    "static": Case(StaticScheduleConfig((0, 1, 5)), 1, 0),
    "static, fitted": Case(StaticScheduleConfig((0, 1, 5), bridge="fitted"), 2, 0),
    "kept in bf16": Case(AdaCacheConfig(RATE, metric_blocks=(1,), bridge="linear", cache_dtype="bf16"), 2, 1),
    "teacache": Case(TeaCacheConfig((1.0, 0.0)), 1, 1),
    "teacache, kept in bf16": Case(TeaCacheConfig((1.0, 0.0), cache_dtype="bf16"), 1, 1),
    "fbcache": Case(FBCacheConfig(), 1, 1, 1),
    "fbcache, kept in bf16": Case(FBCacheConfig(cache_dtype="bf16"), 1, 1, 1),
    "easycache": Case(EasyCacheConfig(warmup=2), 1, 1, 1),
    "seacache": Case(SeaCacheConfig(), 2, 1),
    "seacache, held in bf16": Case(SeaCacheConfig(bridge="hold", cache_dtype="bf16"), 1, 1),
    "pab": Case(PABConfig(), 18, 0),
    "pab, kept in bf16": Case(PABConfig(cache_dtype="bf16"), 18, 0),
    "teacache, one schedule": Case(TeaCacheConfig((1.0, 0.0), schedule="batch"), 1, 1),
    "fbcache, fitted": Case(FBCacheConfig(bridge="fitted"), 2, 1, 1),
    "pab, attention only": Case(PABConfig(spatial=1, mlp_times=()), 9, 0),
    "pab, MLPs only": Case(PABConfig(1, 1, 1, mlp_blocks=(1,)), 2, 0),
}


def most_held(config, hidden_states: torch.Tensor, num_samples: int, contexts: tuple[str, ...]) -> int:
    """The most bytes that a controller holds in a run, looked at wherever a model can look."""
    controller, held = StepController(config), []

    def note(result: torch.Tensor | None = None) -> torch.Tensor | None:
        held.append(controller.nbytes)
        return result

    def run_blocks(x, rows=None):
        for block in range(BLOCKS):
            for stream in ("spatial", "temporal"):
                for part in ("attn", "cross", "mlp"):
                    x = x + note(controller.branch(Site(stream, block, part), lambda x=x: x * 0.1))
        return x

    with controller.run(STEPS, num_samples):
        for step in range(STEPS):
            controller.begin_step(step, 1000.0 * (1 - step / STEPS))
            note()
            for context in contexts:
                x = hidden_states * (1 + step)
                latents = x.movedim(-1, 1)[:, :1].clone()  # (B, 1, N)
                signals = {
                    "latents": lambda latents=latents: latents[..., None, None],
                    "modulated_input": lambda x=x: 2 * x,
                    "first_block": lambda x=x: x * 0.1,
                }
                out = note(controller.stack(x, run_blocks, 2, context, signals))
                # Twice the channels, the second half a predicted variance; float32 whatever the model's dtype.
                note(controller.output(latents, out.movedim(-1, 1)[:, :2].float(), context))
    assert controller.nbytes == 0
    return max(held)


@pytest.mark.parametrize(
    ("dtype", "num_samples", "contexts"), [("fp32", 3, ("both",)), ("bf16", 1, ("cond", "uncond"))]
)
@pytest.mark.parametrize("name", CASES)
def test_what_is_promised_is_what_is_held(name, dtype, num_samples, contexts):
    config, residuals, observed, observed_per_context = CASES[name]
    hidden_states = torch.ones(2 * num_samples, 4, 3, dtype=DTYPES[dtype])
    elements, num_contexts = hidden_states.numel(), len(contexts)
    promise = estimate_cache_bytes(config, STEPS, elements, dtype, num_contexts, BLOCKS, num_latents=elements // 3)
    # Heads live within a step only, where the controller does not count them; the promise has to.
    heads = num_contexts if isinstance(config, FBCacheConfig) else 0
    held = most_held(config, hidden_states, num_samples, contexts)
    assert promise.total == held + heads * promise.observed_bytes
    assert promise.num_residuals == num_contexts * residuals
    assert promise.num_observed == observed + num_contexts * observed_per_context


@pytest.mark.parametrize("measured", [{}, {"metric": "t-attn", "metric_blocks": (1,)}])
def test_outputs_and_what_is_measured_beside_them_are_promised(measured):
    config, hidden_states = MultistepConfig(**MULTISTEP, **measured), torch.ones(6, 4, 3)
    promise = estimate_cache_bytes(config, STEPS, hidden_states.numel(), "fp32", num_latents=24)
    assert promise == CacheBytes(1, 192, len(measured) // 2, 288)
    assert promise.total == most_held(config, hidden_states, 3, ("both",))


def test_only_residuals_for_reuse_are_narrowed():
    config = AdaCacheConfig(bridge="fitted", cache_dtype="bf16")
    assert estimate_cache_bytes(config, 100, 1000, "fp32") == CacheBytes(2, 2000, 1, 4000)
    assert estimate_cache_bytes(config, 100, 1000, "fp32").total == 8000
    assert estimate_cache_bytes(config, 100, 1000, "bf16").total == 6000


@pytest.mark.parametrize(
    ("config", "known", "missing"),
    [
        (EasyCacheConfig(), {"num_blocks": 3}, "num_latents"),
        (SeaCacheConfig(), {"num_blocks": 3}, "num_latents"),
        (PABConfig(), {"num_latents": 24}, "num_blocks"),
    ],
)
def test_sizes_that_a_policy_depends_on_must_be_known(config, known, missing):
    with pytest.raises(ValueError, match=f"needs {missing}"):
        estimate_cache_bytes(config, STEPS, 24, "fp32", **known)


def test_a_head_is_counted_though_the_controller_does_not_see_it():
    assert estimate_cache_bytes(FBCacheConfig(), STEPS, 24, "fp32") == CacheBytes(1, 96, 2, 96)
    assert estimate_cache_bytes(FBCacheConfig(), STEPS, 24, "fp32", num_contexts=2) == CacheBytes(2, 96, 3, 96)


def test_a_policy_of_ones_own_is_counted_too():
    class EverySecond(Policy):
        observed_sites = ((Site("spatial", 0, "attn"),), (Site("spatial", 1, "attn"),))

        def should_compute(self, step_index):
            return step_index % 2 == 0

    class EverySecondConfig(PolicyConfig):
        def make_policy(self, num_steps):
            return EverySecond()

    promise = estimate_cache_bytes(EverySecondConfig(), STEPS, 24, "fp32")
    assert promise == CacheBytes(1, 96, 2, 96)
    assert promise.total == most_held(EverySecondConfig(), torch.ones(2, 4, 3), 1, ("both",))


def test_the_promise_needs_no_torch():
    code = (
        "import sys; from adacache import AdaCacheConfig; from adacache.memory import estimate_cache_bytes; "
        "estimate_cache_bytes(AdaCacheConfig(), 100, 10, 'bf16'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
