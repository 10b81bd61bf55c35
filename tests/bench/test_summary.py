"""bench.json of a few rows, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from bench.log import BenchLog, VideoRow
from bench.points import BenchPoint, references
from bench.run import Work
from bench.setting import bench_clips
from bench.showcase import Showcase
from bench.summary import summarize

SLOW, FAST = (BenchPoint("adacache", budget, num_steps=budget) for budget in (7, 5))
RIVAL, CHEAP = BenchPoint("euler_steps", 7, num_steps=6), BenchPoint("fixed", place=1, num_steps=3)

# (compute, seconds, PSNR of the two prompts under both seeds)
MEASURED = {
    "uncached": (10, 2.0, None),
    "exact": (200, 40.0, None),
    SLOW.key: (8, 1.6, (40, 42, 44, 46)),
    FAST.key: (4, 0.8, (30, 32, 34, 36)),
    RIVAL.key: (6, 1.0, (38, 40, 38, 40)),
    CHEAP.key: (3, 0.5, (20, 20, 20, 20)),
}


@pytest.fixture
def bench(plan, tmp_path):
    clips = bench_clips(["a", "b"], 2)  # a, b, a, b
    both, points = references(200), (SLOW, FAST, RIVAL, CHEAP)
    log = BenchLog(tmp_path / "log.jsonl", {})
    for index, clip in enumerate(clips):
        for point in (*both, *points):
            compute, seconds, psnr = MEASURED[point.key]
            values = {"compute": compute, "denoise_seconds": seconds * (1 + index)}
            log.add(
                VideoRow(
                    clip.prompt,
                    clip.seed,
                    point.key,
                    point.digest,
                    values if psnr is None else {**values, "psnr": psnr[index]},
                )
            )
    work = Work(both, points, tuple(clips), log, Showcase(tmp_path, (), ()))
    plan = dataclasses.replace(plan, best="euler_steps")
    return summarize(plan, work, work.finished_clips(), 10, {"setting": {}})


@pytest.fixture
def points(bench):
    return {(point["policy"], point["budget"]): point for point in bench["points"]}


def test_means_are_over_prompts(points):
    slow = points["adacache", 7]
    assert slow["num_videos"] == 4
    assert slow["values"]["psnr"]["mean"] == 43  # a: 40 and 44, b: 42 and 46
    assert (slow["values"]["psnr"]["low"], slow["values"]["psnr"]["high"]) == (42, 44)
    assert slow["worst"] == {"psnr": 40}


def test_gains_are_at_equal_compute(points):
    # At 6 steps, half-way between 4 and 8, the baseline has a: (32 + 42) / 2 and b: (34 + 44) / 2; the rival 38 and 40.
    gain = points["euler_steps", 7]["gain"]["psnr"]
    assert (gain["mean"], gain["low"], gain["high"]) == (1, 1, 1)
    assert points["fixed", None]["gain"]["psnr"] is None  # cheaper than the baseline ever is
    assert points["adacache", 7]["gain"]["psnr"] is None  # the baseline itself
    assert points["adacache", 7]["to_best"]["psnr"] is None  # dearer than the best ever is
    assert points["euler_steps", 7]["to_best"]["psnr"] is None


def test_speedups(points, bench):
    assert points["adacache", 5]["values"]["speedup"]["mean"] == pytest.approx(2.5)  # in pairs, so time drift cancels
    uncached, exact = bench["references"]
    assert uncached["values"]["speedup"]["mean"] == pytest.approx(1)
    assert exact["values"]["speedup"]["mean"] == pytest.approx(1 / 20)
    assert (uncached["title"], exact["title"]) == ("Uncached, 10 steps", "Uncached, 200 steps")


def test_what_a_report_needs_to_know(bench):
    assert [metric["key"] for metric in bench["metrics"]] == ["psnr"]
    assert bench["metrics"][0]["title"] == "PSNR to uncached"
    assert (bench["baseline"], bench["best"]) == ("adacache", "euler_steps")
    assert [policy["name"] for policy in bench["policies"]] == ["adacache", "fixed", "euler_steps"]
    assert bench["showcase"] == []
