"""Clips under a policy."""

from __future__ import annotations

import pytest

from adacache.calibration.plan import Clip
from adacache.calibration.quality import psnr
from adacache.calibration.runner import Runner
from adacache.policies.static import StaticScheduleConfig
from opensora.cli.calibrate import PipelineClips

CLIPS = (
    Clip("a still red circle on a navy background", 1),
    Clip("a green star moving fast to the right", 2),
    Clip("a yellow square on a gray background", 3),
)
STEPS = 5


@pytest.fixture
def runner(pipe):
    finished: list[int] = []
    runner = Runner(PipelineClips(pipe), 2, finished.append)
    with runner.sampler.steps(STEPS):
        yield runner


def test_every_batch_is_reported_when_it_is_finished(pipe):
    finished: list[int] = []
    runner = Runner(PipelineClips(pipe), 2, finished.append)
    with runner.sampler.steps(2):
        frames, traces = runner.frames(CLIPS)
        assert finished == [2, 1]
    assert runner.num_steps == pipe.config.scheduler.num_sampling_steps
    assert [clip.shape for clip in frames] == [(17, 32, 48, 3)] * 3
    assert traces == []


def test_clips_are_sampled_under_the_policy_and_the_pipelines_own_cache_is_left_alone(runner, monkeypatch):
    monkeypatch.setattr(runner.sampler.pipe, "cache", StaticScheduleConfig((0,)))
    exact, _ = runner.frames(CLIPS)
    every, _ = runner.frames(CLIPS, StaticScheduleConfig(tuple(range(STEPS))))
    assert list(map(psnr, every, exact)) == [80, 80, 80]  # equal frames
    some, traces = runner.frames(CLIPS, StaticScheduleConfig((0, 2)))
    assert max(map(psnr, some, exact)) < 50
    assert [trace.computed_steps for trace in traces] == [[0, 2]] * 3
