"""Videos that are given in part, with a cache: each comes out as alone, whatever else is in its batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adacache import Codebook, StepController, Trace
from adacache.policies.base import PolicyConfig
from adacache.policies.easycache import EasyCacheConfig
from adacache.policies.fbcache import FBCacheConfig
from adacache.policies.pab import PABConfig
from adacache.policies.seacache import SeaCacheConfig
from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline
from support import small_model

STEPS = 12
PROMPTS = (
    "a still red circle on a navy background",
    "a green star moving fast to the right on a brown checkered background",
    "a yellow square on a gray background while the camera pans left",
)
MASKS = ((0.0, 1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0, 1.0))
# Of latents up to 6; see test_policies_on_stdit.py on steps this large.
ROUNDING = 5e-5


def policies() -> dict[str, PolicyConfig]:
    moreg = load_config(small_model.MOREG).cache
    return {
        # With thresholds for steps this large.
        "moreg": replace(moreg, codebook=Codebook((0.2, 0.5), (3, 2, 1))),
        "fbcache": FBCacheConfig(threshold=0.2),
        "easycache": EasyCacheConfig(threshold=0.2, warmup=2),
        "seacache": SeaCacheConfig(threshold=0.6),
        "pab": PABConfig(mlp_blocks=(0, 1)),
    }


@pytest.fixture(scope="module")
def pipe() -> SamplingPipeline:
    return SamplingPipeline.from_config(load_config(small_model.SAMPLE, {}, {"scheduler.num_sampling_steps": STEPS}))


def sample(
    pipe: SamplingPipeline, videos: tuple[int, ...], cache: PolicyConfig, masks=MASKS
) -> tuple[Tensor, list[Trace]]:
    """Latents and traces of some of the videos in one batch; their given frames hold other noise, a little calmer."""
    z = torch.stack([torch.randn(4, 5, 8, 8, generator=torch.Generator().manual_seed(video)) for video in videos])
    mask = None if masks is None else torch.tensor([masks[video] for video in videos])
    if mask is not None:
        z = torch.where((mask == 1)[:, None, :, None, None], z, 0.5 * z)
    controller = StepController(cache)
    latents = pipe.scheduler.sample(
        pipe.model,
        pipe.text_encoder,
        z,
        [PROMPTS[video] for video in videos],
        "cpu",
        additional_args=pipe.size_arguments(len(videos)),
        mask=mask,
        progress=False,
        controller=controller,
        generator=[torch.Generator().manual_seed(1000 + video) for video in videos],
    )
    return latents, controller.traces


@pytest.mark.parametrize("name", policies())
def test_a_video_in_a_batch_of_other_masks_gives_the_latents_it_gives_alone(pipe, name):
    cache = policies()[name]
    together, traces = sample(pipe, (0, 1, 2), cache)
    for video in range(3):
        alone, own = sample(pipe, (video,), cache)
        assert own[0].computed_steps == traces[video].computed_steps
        torch.testing.assert_close(together[video], alone[0], rtol=0, atol=ROUNDING)
    if name != "pab":
        assert [any(record.joined for record in trace.records) for trace in traces] == [False, False, True]
        assert all(trace.num_reused for trace in traces)


@pytest.mark.parametrize("name", policies())
def test_a_mask_of_ones_is_no_mask(pipe, name):
    cache, ones = policies()[name], ((1.0,) * 5,) * 3
    masked, plain = (sample(pipe, (0, 1), cache, masks) for masks in (ones, None))
    assert torch.equal(masked[0], plain[0])
    assert [trace.computed_steps for trace in masked[1]] == [trace.computed_steps for trace in plain[1]]


def test_held_frames_stay_as_they_were(pipe):
    latents, _ = sample(pipe, (0,), policies()["moreg"])
    given = 0.5 * torch.randn(4, 5, 8, 8, generator=torch.Generator().manual_seed(0))[:, 0]
    assert torch.equal(latents[0, :, 0], given)
