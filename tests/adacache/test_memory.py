"""The promise: no run holds more than was said before, and every run comes to hold it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from adacache import AdaCacheConfig, Codebook, Site, StepController
from adacache.memory import CacheBytes, estimate_cache_bytes
from adacache.policies.base import Report
from adacache.policies.static import StaticScheduleConfig

STEPS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RATE = Codebook((), (2,))
# config, tensors for reuse and tensors that are measured
CASES = {
    "t-attn": (AdaCacheConfig(RATE, "t-attn", (1,)), 1, 1),
    "s-attn in 2 blocks": (AdaCacheConfig(RATE, "s-attn", (0, 2)), 1, 2),
    "ca-mlp": (AdaCacheConfig(RATE, "ca-mlp", (1,)), 1, 2),
    "ca-mlp in 2 blocks": (AdaCacheConfig(RATE, "ca-mlp", (0, 2)), 1, 4),
    "moreg": (AdaCacheConfig(RATE, metric_blocks=(1,), moreg=True), 1, 1),
    "linear": (AdaCacheConfig(RATE, metric_blocks=(1,), bridge="linear"), 2, 1),
    "fitted": (AdaCacheConfig(RATE, metric_blocks=(1,), bridge="fitted"), 2, 1),
    "one schedule": (AdaCacheConfig(RATE, metric_blocks=(1,), bridge="fitted", schedule="batch"), 2, 1),
    "static": (StaticScheduleConfig((0, 1, 5)), 1, 0),
    "static, fitted": (StaticScheduleConfig((0, 1, 5), bridge="fitted"), 2, 0),
    "kept in bf16": (AdaCacheConfig(RATE, metric_blocks=(1,), bridge="linear", cache_dtype="bf16"), 2, 1),
    "kept in fp32": (AdaCacheConfig(RATE, metric_blocks=(1,), cache_dtype="fp32"), 1, 1),
}


def most_held(config, hidden_states: torch.Tensor, num_samples: int, contexts: tuple[str, ...]) -> int:
    """The most bytes that a controller holds in a run, looked at wherever a model can look."""
    controller, held = StepController(config), []

    def note(result: torch.Tensor | None = None) -> torch.Tensor | None:
        held.append(controller.nbytes)
        return result

    def run_blocks(x, rows=None):
        for block in range(3):
            for stream in ("spatial", "temporal"):
                for part in ("attn", "cross", "mlp"):
                    x = x + note(controller.branch(Site(stream, block, part), lambda x=x: x * 0.1))
        return x

    with controller.run(STEPS, num_samples):
        for step in range(STEPS):
            controller.begin_step(step)
            note()
            for context in contexts:
                note(controller.stack(hidden_states, run_blocks, tokens_per_frame=2, context=context))
    assert controller.nbytes == 0
    return max(held)


@pytest.mark.parametrize("contexts", [("both",), ("cond", "uncond")])
@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_promised_is_what_is_held(name, dtype, num_samples, contexts):
    config, residuals, observed = CASES[name]
    hidden_states = torch.ones(2 * num_samples, 4, 3, dtype=DTYPES[dtype])
    promise = estimate_cache_bytes(config, STEPS, hidden_states.numel(), dtype, len(contexts))
    assert promise.total == most_held(config, hidden_states, num_samples, contexts)
    assert (promise.num_residuals, promise.num_observed) == (len(contexts) * residuals, observed)


def test_only_residuals_for_reuse_are_narrowed():
    config = AdaCacheConfig(bridge="fitted", cache_dtype="bf16")
    assert estimate_cache_bytes(config, 100, 1000, "fp32") == CacheBytes(2, 2000, 1, 4000)
    assert estimate_cache_bytes(config, 100, 1000, "fp32").total == 8000
    assert estimate_cache_bytes(config, 100, 1000, "bf16").total == 6000


def test_a_policy_of_ones_own_is_counted_too():
    class EverySecond:
        observed_sites = ((Site("spatial", 0, "attn"),), (Site("spatial", 1, "attn"),))

        def should_compute(self, step_index):
            return step_index % 2 == 0

        def motion_strides(self, step_index):
            return ()

        def observe(self, step_index, measurements):
            return Report()

    class EverySecondConfig:
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
