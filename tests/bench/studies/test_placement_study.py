"""The placement study's arithmetic, on numbers worked out by hand, and one small run."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from adacache import AdaCacheConfig
from adacache.calibration.calibration import Calibration
from adacache.calibration.plan import Clip
from adacache.calibration.runner import Runner
from adacache.policies.static import StaticScheduleConfig
from bench.studies.placement import (
    BASELINE,
    BRIDGES,
    Outcome,
    combinations,
    compare,
    differences,
    markdown,
    plot,
)
from opensora.cli.calibrate import PipelineClips
from opensora.pipeline import SamplingPipeline


def outcome(name: str, to_uncached: list[float]) -> Outcome:
    return Outcome(name, 10, {}, "", to_uncached, [30.0] * len(to_uncached), [10] * len(to_uncached))


def test_differences_are_paired_and_over_prompts():
    clips = [Clip("a", 0), Clip("b", 1), Clip("a", 2), Clip("b", 3)]
    rows = differences([outcome(BASELINE, [30, 40, 32, 42]), outcome("better", [32, 44, 34, 46])], clips)
    # By prompt: 31 and 41 against 33 and 45, so gains of 2 and 4: mean 3, standard error 1.
    assert rows[1]["to_uncached"] == 39
    assert rows[1]["to_uncached_gain"] == 3
    assert rows[1]["to_uncached_interval"] == pytest.approx(1.96)
    assert "+3.0 +- 2.0" in markdown(rows, "to_uncached")
    assert f"| {BASELINE} | 36.0 dB (10.0 steps) |" in markdown(rows, "to_uncached")


def test_the_picture_is_written(tmp_path):
    clips = [Clip("a", 0), Clip("b", 1)]
    plot(
        differences([outcome(BASELINE, [30, 40]), outcome("calibrated, fitted", [32, 44])], clips),
        tmp_path / "p.png",
        38,
    )
    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] > 1000


def test_every_placement_meets_every_bridge():
    calibration = Calibration.load("assets/opensora-mini/calibration.json")
    tuned = {12: AdaCacheConfig("fast30", metric_blocks=(2,))}
    found = list(combinations(tuned, {12: [range(12)]}, calibration, 30))
    assert len({name for name, _, _ in found}) == 3 * len(BRIDGES) + 1 == len(found)
    calibrated = {name: policy for name, _, policy in found}["calibrated, fitted"]
    assert len(calibrated.computed_steps) == 12


def test_a_stopped_comparison_goes_on_where_it_was(tmp_path):
    pipe = SamplingPipeline.from_config("configs/mini/sample.py")
    pipe.scheduler.num_sampling_steps = 6
    finished: list[int] = []
    runner = Runner(PipelineClips(pipe), 2, finished.append)
    clips = [Clip("a still red circle", 0), Clip("a blue square moving fast up", 1)]
    exact = runner.exact_frames(clips)
    references = {"uncached": exact, "exact": exact}
    log = tmp_path / "finished.jsonl"
    first = ("every step", 6, StaticScheduleConfig(tuple(range(6))))
    fewer = ("Euler steps", 4, None)
    finished.clear()
    outcomes = compare(runner, [first, fewer], clips, references, log, "")
    assert outcomes[0].to_uncached == [80, 80]
    assert outcomes[0].computed == [6, 6]
    assert max(outcomes[1].to_uncached) < 50
    assert outcomes[1].computed == [4, 4]
    assert finished == [2, 2]
    again = compare(runner, [first, fewer, ("half", 3, StaticScheduleConfig((0, 2, 4)))], clips, references, log, "")
    assert again[:2] == outcomes
    assert finished == [2, 2, 2]
    assert len([json.loads(line) for line in log.read_text().splitlines()]) == 3
