"""Policies that look at signals, reuse the output or single branches, on the mini model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adacache.policies.base import PolicyConfig
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.pab import PABConfig
from adacache.policies.seacache import SeaCacheConfig
from adacache.policies.teacache import TeaCacheConfig
from opensora.config.loading import load_config
from opensora.pipeline import SamplingOutput, SamplingPipeline
from support import small_model

STEPS = 8
PROMPTS = (
    "a still red circle on a navy background",
    "a yellow square on a gray background while the camera pans left",
)
SEEDS = (3, 5)
# Of latents up to 6. With steps this large, rounding alone makes 1.3e-5 of a batch where nothing is reused.
ROUNDING = 3e-5

REUSING: dict[str, PolicyConfig] = {
    "teacache": TeaCacheConfig((1.0, 0.0), threshold=0.3),
    "fbcache": FBCacheConfig(threshold=0.2),
    "easycache": EasyCacheConfig(threshold=0.2, warmup=2),
    "seacache": SeaCacheConfig(threshold=0.6),
    "pab": PABConfig(mlp_blocks=(0, 1)),
}
NEVER_REUSING: dict[str, PolicyConfig] = {
    "teacache": TeaCacheConfig((1.0,), threshold=0.5),  # every change counts as 1
    "fbcache": FBCacheConfig(threshold=1e-9),
    "easycache": EasyCacheConfig(warmup=STEPS),
    "seacache": SeaCacheConfig(threshold=1e-9),
    "pab": PABConfig(1, 1, 1, mlp_times=()),
}


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(load_config(small_model.SAMPLE, {}, {"scheduler.num_sampling_steps": STEPS}))


@pytest.fixture(scope="module")
def plain(pipe) -> SamplingOutput:
    pipe.cache = None
    return pipe(PROMPTS, seed=SEEDS, progress=False)


@pytest.mark.parametrize("name", REUSING)
def test_a_prompt_in_a_batch_gives_the_video_it_gives_alone(pipe, plain, name):
    pipe.cache = REUSING[name]
    together = pipe(PROMPTS, seed=SEEDS, progress=False)
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = pipe([prompt], seed=[seed], progress=False)
        assert alone.traces[0].computed_steps == together.traces[index].computed_steps
        torch.testing.assert_close(together.latents[index], alone.latents[0], rtol=0, atol=ROUNDING)
        assert not torch.allclose(together.latents[index], plain.latents[index], rtol=0, atol=1e-3)
    if name == "pab":
        shares = [record.computed_share for record in together.traces[0].records]
        assert shares[0] == 1 and min(shares) < 1
    else:
        assert all(1 < trace.num_computed < STEPS for trace in together.traces)
        assert len({tuple(trace.computed_steps) for trace in together.traces}) > 1  # each decides for itself


@pytest.mark.parametrize("name", NEVER_REUSING)
def test_a_policy_that_never_reuses_changes_no_bit(pipe, plain, name):
    pipe.cache = NEVER_REUSING[name]
    cached = pipe(PROMPTS, seed=SEEDS, progress=False)
    assert all(trace.computed_steps == list(range(STEPS)) for trace in cached.traces)
    assert torch.equal(cached.latents, plain.latents)
    assert all(map(np.array_equal, cached.videos, plain.videos))
