"""The online study's arithmetic, on numbers worked out by hand, and one video through it."""

from __future__ import annotations

import numpy as np
import pytest
from tqdm import tqdm

from adacache.policies.static import StaticScheduleConfig
from bench.studies import online as study
from opensora.pipeline import SamplingPipeline


def test_every_caption_and_seed_has_its_own_noise():
    clips = study.clips_of({"still": ["a", "b"], "fast": ["c"]}, seeds=2, first_seed=10)
    assert [clip.caption for clip in clips] == ["a", "b", "c"] * 2
    assert [clip.seed for clip in clips] == list(range(10, 16))
    assert clips[2].content == "fast"


def test_equal_compute_lies_on_the_line_through_the_nearest_plans():
    plans = {length: np.array([psnr, psnr + 1]) for length, psnr in ((10, 30.0), (12, 34.0), (15, 40.0))}
    assert study.at_mean_steps(plans, 12).tolist() == [34, 35]
    assert study.at_mean_steps(plans, 10.5).tolist() == [31, 32]
    assert study.at_mean_steps(plans, 13.5).tolist() == [37, 38]
    assert study.at_mean_steps(plans, 9).tolist() == [28, 29]
    assert study.at_mean_steps(plans, 16).tolist() == [42, 43]


def row(correction: str, content: str, steps: int, psnr: float) -> dict[str, object]:
    return {"plan": 10, "correction": correction, "class": content, "computed_steps": [0] * steps, "psnr": psnr}


def test_gains_are_paired_video_by_video():
    rows = [row("plan", "still", 10, 30), row("plan", "still", 10, 40), row("plan", "fast", 10, 20)]
    rows += [{**plan, "plan": 12, "psnr": plan["psnr"] + 2, "computed_steps": [0] * 12} for plan in rows]
    rows += [row("motion", "still", 10, 32), row("motion", "still", 10, 44), row("motion", "fast", 13, 24)]
    motion = study.summarize(rows)[-1]
    assert motion["steps"] == 11  # where the plans have 31, 41 and 21 dB
    assert motion["gain"] == pytest.approx((7 / 3, 2 / 3))  # of 1, 3 and 3
    assert motion["classes"]["still"]["gain"] == pytest.approx((2, 1))  # of 1 and 3
    assert motion["classes"]["fast"] == {"steps": 13, "psnr": 24, "gain": (3, None)}
    table = study.markdown(study.summarize(rows)).splitlines()
    assert table[-1].startswith("| 10 | motion | 11.0 | 33.33 dB | +2.33 ± ")
    assert table[-1].endswith("| +2.00 ± 1.00 (10.0 steps) | - | +3.00 (13.0 steps) | - |")
    assert len({line.count("|") for line in table}) == 1


def test_what_to_expect_and_one_video_under_two_policies():
    pipe = SamplingPipeline.from_config("configs/mini/sample.py")
    clips = [study.Clip("still", "a still red circle on a navy background", 1)]
    progress = tqdm(disable=True)
    expectation = study.expect(pipe, (2,), clips, progress)
    assert len(expectation.change) == len(expectation.motion) == study.NUM_STEPS
    assert all(0 < motion <= 1 for motion in expectation.motion)
    # Measured on the same video, what comes is what was expected.
    caches = {
        (10, "plan"): StaticScheduleConfig(study.PLANS[10], bridge=study.BRIDGE),
        (10, "distance"): study.corrected(10, expectation, (2,), {"distance_weight": 0}),
    }
    plan, distance = study.measure(pipe, caches, clips, progress)
    assert plan["computed_steps"] == distance["computed_steps"] == list(study.PLANS[10])
    assert plan["psnr"] == distance["psnr"] < 80


def test_all_policies_fit_the_run():
    expectation = study.Expectation((0.1,) * study.NUM_STEPS, (0.2,) * study.NUM_STEPS)
    caches = study.policies(expectation, (2,))
    assert len(caches) == len(study.PLANS) * (1 + len(study.CORRECTIONS))
    for (length, name), cache in caches.items():
        cache.validate(study.NUM_STEPS, 4)
        assert cache.bridge.kind == study.BRIDGE
        if "budget" in name:
            assert cache.budget - cache.motion_budget == length
