"""A batch of real prompts: every video comes out as it does alone, and blocks run for those that are due."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adacache.policies.base import PolicyConfig
from adacache.policies.static import StaticScheduleConfig
from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline
from support import small_model

PROMPTS = (
    "a still red circle on a navy background",
    "a green star moving fast to the right on a brown checkered background",
)
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(small_model.ADACACHE)


def policies() -> dict[str, PolicyConfig]:
    moreg = load_config(small_model.MOREG).cache
    return {
        "adacache": replace(moreg, bridge="fitted"),
        "static": StaticScheduleConfig((0, 1, 3, 6, 10, 15, 20, 25, 29), bridge="linear"),
    }


@pytest.mark.parametrize("name", policies())
def test_a_prompt_in_a_batch_gives_the_latents_it_gives_alone(pipe, name):
    pipe.cache = policies()[name]
    rows = []
    hook = pipe.model.spatial_blocks[0].register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    together = pipe(PROMPTS, seed=SEEDS, progress=False)
    hook.remove()
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = pipe([prompt], seed=[seed], progress=False)
        assert alone.traces[0].computed_steps == together.traces[index].computed_steps
        torch.testing.assert_close(together.latents[index], alone.latents[0], rtol=0, atol=1e-5)
    # Two rows per video, one per guidance branch; each runs as often as its own trace says, and less than every step.
    assert sum(rows) == 2 * sum(trace.num_computed for trace in together.traces)
    assert all(trace.num_computed < pipe.scheduler.num_sampling_steps for trace in together.traces)
    if name != "static":
        assert len({tuple(trace.computed_steps) for trace in together.traces}) > 1
        assert min(rows) < 2 * len(PROMPTS)


def test_one_schedule_for_a_batch_is_there_when_asked_for(pipe):
    pipe.cache = replace(policies()["adacache"], schedule="batch")
    output = pipe(PROMPTS, seed=SEEDS, progress=False)
    assert all(trace is output.traces[0] for trace in output.traces)
