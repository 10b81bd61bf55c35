"""A replayed run computes the steps that were recorded, bridges as they were bridged, and gives the same video."""

from __future__ import annotations

from dataclasses import replace

import torch

from adacache import StepRecord, Trace
from opensora.config.loading import load_config
from opensora.pipeline import SamplingPipeline
from support import small_model

PROMPT = "a green star moving fast to the right on a brown checkered background"


def test_a_replayed_video_equals_the_recorded_one_with_nothing_measured(tmp_path):
    pipe = SamplingPipeline.from_config(small_model.ADACACHE)
    pipe.cache = replace(pipe.cache, bridge="fitted")
    recorded = pipe([PROMPT], seed=1, progress=False)
    path = tmp_path / "trace.json"
    recorded.traces[0].save(path, seed=1)

    pipe.cache = load_config(small_model.SAMPLE, {"replay": str(path)}).cache
    again = pipe([PROMPT], seed=1, progress=False)
    assert torch.equal(again.latents, recorded.latents)
    assert again.traces[0].computed_steps == recorded.traces[0].computed_steps
    assert all(record.distance is None for record in again.traces[0].records)


def test_a_replay_keeps_the_memory_options_of_the_config(tmp_path):
    path = tmp_path / "trace.json"
    Trace(30, [StepRecord(i, None, i % 2 == 0) for i in range(30)]).save(path)
    options = {"cache.cache_device": "cpu", "cache.cache_dtype": "bf16"}
    cache = load_config(small_model.ADACACHE, {"replay": str(path)}, options).cache
    assert (cache.cache_device, cache.cache_dtype) == ("cpu", "bf16")
    assert cache.computed_steps == tuple(range(0, 30, 2))
