"""Clips under a policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adacache.calibration.plan import Clip
from adacache.calibration.quality import Quality
from adacache.calibration.runner import Runner
from adacache.policies.static import StaticScheduleConfig
from adacache.trace import StepRecord, Trace
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
        frames = runner.exact_frames(CLIPS)
        assert finished == [2, 1]
    assert runner.num_steps == pipe.config.scheduler.num_sampling_steps
    assert [clip.shape for clip in frames] == [(17, 32, 48, 3)] * 3


def test_quality_is_that_of_the_policy_and_the_pipelines_own_cache_is_left_alone(runner, monkeypatch):
    monkeypatch.setattr(runner.sampler.pipe, "cache", StaticScheduleConfig((0,)))
    exact = runner.exact_frames(CLIPS)
    every = runner.quality(StaticScheduleConfig(tuple(range(STEPS))), CLIPS, exact)
    assert every.psnr == [80, 80, 80]  # equal frames
    some = runner.quality(StaticScheduleConfig((0, 2)), CLIPS, exact)
    assert max(some.psnr) < 50
    assert [trace.computed_steps for trace in some.traces] == [[0, 2]] * 3
    assert some.against(some.frames).psnr == [80, 80, 80]


def test_mean_standard_error_and_cost_by_hand():
    frames = [np.zeros((1, 2, 2, 3), np.uint8)] * 3
    others = [np.full((1, 2, 2, 3), value, np.uint8) for value in (255, 255, 255)]
    records = [StepRecord(0, 1000, True, milliseconds=10.0), StepRecord(1, 500, False, milliseconds=1.0)]
    records += [StepRecord(2, 250, False, milliseconds=2.0), StepRecord(3, 100, False, milliseconds=9.0)]
    quality = Quality.of(frames, others, [Trace(4, records)])
    assert quality.psnr == [0, 0, 0]  # as far apart as frames can be
    quality = replace(quality, psnr=[30.0, 34.0, 38.0])
    assert quality.mean == 34
    assert quality.error == pytest.approx(4 / 3**0.5)
    assert quality.reused_cost == pytest.approx(0.2)  # the median reused step
    assert replace(quality, psnr=[30.0]).error == 0
