"""The pipeline of Latte and Open-Sora-Plan, used from Python: what no config file checks before."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from bench.timing.parallel import arrangements
from opensora.acceleration.launch import MeshShape
from opensora.config.loading import config_from_dict
from opensora.errors import ConfigError
from opensora.pipeline import SamplingError, SamplingPipeline
from tests.opensora.test_device import allowed_tf32


@pytest.fixture(scope="module")
def pipe(entries) -> SamplingPipeline:
    return SamplingPipeline.from_config({**entries, "scheduler": {**entries["scheduler"], "num_sampling_steps": 4}})


def test_another_negative_prompt_is_guided_away_from(pipe):
    other = dataclasses.replace(pipe.config, negative_prompt="a blue star")
    expected = SamplingPipeline.from_config(other)(["a red circle"], seed=3).latents
    assert torch.equal(pipe.with_config(other)(["a red circle"], seed=3).latents, expected)
    assert not torch.equal(pipe(["a red circle"], seed=3).latents, expected)
    assert pipe.with_config(pipe.config).text_encoder is pipe.text_encoder  # it remembers what it encoded


def test_references_are_refused_in_a_sentence(pipe):
    reference = torch.zeros(4, 1, 8, 8)
    with pytest.raises(SamplingError, match="takes no references: it makes videos from text alone"):
        pipe(["a red circle"], references=[[reference]], mask_strategies=["0"])


def test_one_prompt_may_be_a_string(pipe):
    assert torch.equal(pipe.sample_latents("a red circle", seed=3), pipe("a red circle", seed=3).latents)


def test_every_convolution_keeps_all_bits(pipe):
    seen: dict[str, bool] = {}
    hooks = []
    for part in ("model", "vae"):
        for name, module in getattr(pipe, part).named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                note = lambda *_, name=f"{part}.{name}": seen.__setitem__(name, allowed_tf32())  # noqa: E731
                hooks.append(module.register_forward_pre_hook(note))
    pipe(["a red circle"], seed=3)
    for hook in hooks:
        hook.remove()
    assert any(name.startswith("model.") for name in seen) and len(seen) > 10
    assert not any(seen.values())


def test_processes_can_share_its_two_halves_of_guidance_only(entries):
    config = config_from_dict(entries)
    assert arrangements(2, config, (5, 16), 2) == [MeshShape(1, 2, 1)]
    with pytest.raises(ConfigError, match="4 processes cannot share one video of .*; use 2"):
        arrangements(4, config, (5, 16), 2)
    with pytest.raises(ConfigError, match="sequence_parallel=2 has nothing to split"):
        arrangements(2, dataclasses.replace(config, sequence_parallel=2), (5, 16), 2)
