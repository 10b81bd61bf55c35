"""A real bench of the mini model: killed, taken up again, cut short; and its order."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from functools import cache

import numpy as np
import pytest

from bench.bench import _few_prompts
from bench.costs import Costs, StepCosts
from bench.log import BenchLog
from bench.points import BenchPoint, references
from bench.run import BenchRun, Work, turned
from bench.sampler import Sampled
from bench.setting import bench_clips
from bench.showcase import Showcase
from bench.summary import measured_points
from opensora.errors import Terminated
from opensora.pipeline import SamplingPipeline
from scripts.bench import main

MEASURED_TIME = ("denoise_seconds", "total_seconds", "peak_mb")


@pytest.fixture
def small(entries, write_plan, monkeypatch):
    """A plan that is run in seconds: 6 steps, 48 x 48 pixels; the model is loaded once."""
    monkeypatch.setattr(SamplingPipeline, "from_config", cache(SamplingPipeline.from_config))
    return write_plan(
        {
            **entries,
            "budgets": (4, 5),
            "exact_steps": 12,
            "showcase_prompts": 1,
            "batch_size": 2,
            "sample_options": {"scheduler.num_sampling_steps": 6, "image_size": (48, 48)},
        }
    )


def videos(folder) -> list[dict[str, str]]:
    with (folder / "videos.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED_TIME} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_bench_goes_on_to_the_same_results(small, tmp_path, monkeypatch, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([str(small), "--output", str(whole)]) == 0
    table = capsys.readouterr().out
    assert "Fewer steps" in table and "4 of 6 steps" in table

    bench = json.loads((whole / "bench.json").read_text())
    assert [policy["name"] for policy in bench["policies"]] == ["adacache", "fixed", "euler_steps"]
    assert len(bench["points"]) == 2 + 2 + 2
    assert bench["setting"]["num_prompts"] == 2 and bench["setting"]["num_steps"] == 6
    by_key = {(point["policy"], point["budget"]): point for point in bench["points"]}
    steps = by_key["euler_steps", 4]
    assert steps["values"]["compute"]["mean"] == pytest.approx(4)
    assert steps["num_videos"] == 2
    assert steps["values"]["psnr"]["mean"] < 50 and steps["worst"]["psnr"] <= steps["values"]["psnr"]["mean"]
    assert steps["values"]["speedup"]["mean"] > 0  # how large depends on what else the machine does
    assert {"ssim", "ms_ssim", "flicker", "psnr_exact"} <= steps["values"].keys()
    assert by_key["adacache", 4]["gain"]["psnr"] is None
    assert [reference["name"] for reference in bench["references"]] == ["uncached", "exact"]
    assert "psnr" not in bench["references"][0]["values"]
    [scene] = bench["showcase"]
    assert {video["policy"] for video in scene["videos"]} == {"uncached", "exact", "adacache", "fixed", "euler_steps"}
    assert all((whole / video["file"]).is_file() and video["steps"] for video in scene["videos"])
    assert (whole / "index.html").is_file()
    assert len(videos(whole)) == 2 * (2 + 6)

    (killed / "x").parent.mkdir()
    (killed / "tuned.json").write_bytes((whole / "tuned.json").read_bytes())
    add = BenchLog.add

    def add_some(log, row):
        add(log, row)
        if len(log._rows) == 11:  # in the middle of the second clip
            raise KeyboardInterrupt

    monkeypatch.setattr(BenchLog, "add", add_some)
    assert main([str(small), "--output", str(killed)]) == 130
    assert json.loads((killed / "bench.json").read_text())["setting"]["num_prompts"] == 1
    monkeypatch.setattr(BenchLog, "add", add)
    with (killed / "log.jsonl").open("a") as file:
        file.write('{"prompt": "cut o')
    before = len((killed / "log.jsonl").read_text().splitlines())
    assert main([str(small), "--output", str(killed)]) == 0
    assert videos(killed) == videos(whole)
    assert before == 1 + 11 + 1 and len((killed / "log.jsonl").read_text().splitlines()) == 1 + 16

    # A finished bench is written again without the model.
    monkeypatch.setattr(SamplingPipeline, "from_config", lambda config: pytest.fail("loaded"))
    capsys.readouterr()
    assert main([str(small), "--output", str(killed), "--markdown"]) == 0
    assert "| policy | 4 steps | 5 steps |" in capsys.readouterr().out


@pytest.mark.parametrize(("signal", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_bench_that_ends_while_it_tunes_says_so(signal, code, tmp_path, monkeypatch, caplog):
    def stop(*_):
        raise signal

    monkeypatch.setattr("bench.bench.Bench._prepare", stop)
    assert main(["configs/bench/mini.py", "--output", str(tmp_path / "out")]) == code
    assert "policies are not all tuned" in caplog.text and "no clip is complete" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/bench/minni.py"], "did you mean 'configs/bench/mini.py'?"),
        (["configs/bench/mini.py", "--policies", "nothing"], "unknown policy 'nothing'"),
        (["configs/bench/mini.py", "--budgets", "40"], "40 computed steps leave nothing to reuse"),
        (["configs/bench/mini.py", "--prompts", "100"], "100 are wanted"),
        (["configs/bench/mini.py", "--device", "cuda:99"], "device 'cuda:99' was asked for"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_sentence(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_minutes_must_be_some(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["configs/bench/mini.py", "--budget-minutes", "0"])
    assert ended.value.code == 2
    assert "--budget-minutes is 0; give more than 0" in capsys.readouterr().err


def test_the_order_turns_and_loses_nothing():
    points = [BenchPoint(name) for name in "abcde"]
    assert [point.policy for point in turned(points, 0)] == list("abcde")
    assert [point.policy for point in turned(points, 1)] == list("deabc")
    starts = {turned(points, index)[0].policy for index in range(8)}
    assert starts == set("abcde")
    assert turned([], 3) == []


def make_work(tmp_path) -> Work:
    points = tuple(BenchPoint("steps", n, num_steps=n) for n in (4, 6)) + (BenchPoint("own", place=1),)
    log = BenchLog(tmp_path / "log.jsonl", {})
    return Work(references(20), points, tuple(bench_clips(["a", "b"], 2)), log, Showcase(tmp_path, (), ()))


class FakeSampler:
    """Gives black videos at once."""

    class pipe:
        class config:
            save_fps = 8

    def sample(self, point, clip) -> Sampled:
        return Sampled(np.zeros((2, 8, 8, 3), np.uint8), 1.0, 0.5, point.num_steps or 10, None, 0, None)


class FakeMeter:
    def quality(self, frames, prompt, references) -> dict[str, float]:
        return {f"psnr{reference.suffix}": 30.0 for reference in references}


def make_run(work: Work) -> BenchRun:
    costs = Costs(StepCosts(100.0, 0.0, None), {})
    return BenchRun(work, FakeSampler(), FakeMeter(), costs, lambda steps: [], lambda policy: None)


def test_a_bench_stops_between_two_clips_when_time_is_up(tmp_path):
    work = make_work(tmp_path)
    assert not make_run(work).run(deadline=time.monotonic() - 1)
    assert [clip.seed for clip in work.finished_clips()] == [1000]  # the first is run in any case
    assert make_run(work).run(deadline=time.monotonic() + 60)
    assert work.finished_clips() == list(work.clips)
    assert not any(work.missing(clip) for clip in work.clips)


def test_rows_of_a_later_session_are_compared_with_an_uncached_run_of_that_session(tmp_path):
    work = make_work(tmp_path)
    few = dataclasses.replace(work, points=work.points[:1])
    make_run(few).run()
    later = make_run(work)
    later._sampler.sample = lambda point, clip: dataclasses.replace(
        FakeSampler().sample(point, clip), denoise_seconds=2.0
    )
    later.run()
    (uncached, _), (first, second, _) = measured_points(work, work.clips)
    assert uncached.by_prompt("denoise_seconds") == {0: 1.0, 1: 1.0}
    assert [row.uncached_seconds for row in (*first.rows, *second.rows)] == 4 * [None] + 4 * [2.0]
    assert first.speedup(uncached).mean == second.speedup(uncached).mean == pytest.approx(1.0)


def test_a_clip_that_lost_its_uncached_run_is_timed_anew(tmp_path):
    """Killed before the uncached run, which is not the first of the second clip."""
    work = make_work(tmp_path)
    run, second = make_run(work), work.clips[1]
    add, uncached = work.log.add, work.references[0]

    def add_some(row):
        if (row.prompt, row.point) == (second.prompt, uncached.key):
            raise KeyboardInterrupt
        add(row)

    work.log.add = add_some
    with pytest.raises(KeyboardInterrupt):
        run.run()
    del work.log.add
    assert work.log.get(second, work.points[-1]) is not None
    later = make_run(work)
    later._sampler.sample = lambda point, clip: dataclasses.replace(
        FakeSampler().sample(point, clip), denoise_seconds=2.0
    )
    later.run()
    rows = [work.log.get(second, point) for point in (*work.references, *work.points)]
    assert [row.values["denoise_seconds"] for row in rows] == 5 * [2.0]


def test_every_commit_that_rows_are_of_is_named(tmp_path):
    work = make_work(tmp_path)
    for commit, clips in (("abc", work.clips[:2]), ("def", work.clips)):
        log = BenchLog(tmp_path / "log.jsonl", {}, commit)
        make_run(dataclasses.replace(work, log=log, clips=clips)).run()
    assert dataclasses.replace(work, log=log).commits(work.clips) == ["abc", "def"]


def test_references_are_not_compared_with_themselves(tmp_path):
    work = make_work(tmp_path)
    make_run(work).run()
    uncached, exact = (work.log.get(work.clips[0], point).values for point in work.references)
    assert "psnr_exact" in uncached and "psnr" not in uncached
    assert not {"psnr", "psnr_exact"} & exact.keys()
    assert (exact["compute"], uncached["compute"]) == (20.0, 10.0)
    steps = work.log.get(work.clips[0], work.points[0]).values
    assert {"psnr", "psnr_exact"} <= steps.keys()


def test_one_prompt_is_said_to_give_no_interval():
    assert _few_prompts(bench_clips(["a"], 2)) == [
        "One prompt gives no interval: those that are shown have no width and mean nothing."
    ]
    assert _few_prompts(bench_clips(["a", "b"], 1)) == []
