"""The conditioning study's arithmetic, on numbers worked out by hand, and one small run."""

from __future__ import annotations

import numpy as np
import pytest
from tqdm import tqdm

from bench.studies.conditioning import (
    OURS,
    STRICTER,
    TASKS,
    UPSTREAM,
    Result,
    clips_of,
    markdown,
    measure,
    num_videos,
    policies,
    rules,
    summarize,
)
from mini.world.captions import parse_caption
from opensora.config import load_config
from opensora.pipeline import SamplingPipeline


def test_ours_is_compared_at_its_own_and_at_equal_steps():
    results = [
        Result("edit", "AdaCache", OURS.name, [40.0, 44.0], [10, 12]),
        Result("edit", "AdaCache", UPSTREAM.name, [36.0, 40.0], [8, 10]),
        Result("edit", "AdaCache", STRICTER[0].name, [38.0, 44.0], [12, 14]),
    ]
    [row] = summarize(results)
    assert row["ours"] == {"steps": 11, "psnr": 42}
    assert row["more_steps"] == (2, 2, 2)
    assert row["gain"] == (4, 4, 4)
    # Upstream at 11 steps lies halfway between 9 and 13: 37 and 42.
    assert row["gain_at_equal_steps"][0] == pytest.approx(2.5)
    assert "| edit | AdaCache | 9.0, 38.0 dB | 11.0, 42.0 dB | +2.0 [+2.0, +2.0] | +4.0" in markdown([row])


def test_without_a_mask_there_is_one_rule():
    results = [Result("text only", "AdaCache", OURS.name, [40.0], [10])]
    assert markdown(summarize(results)).endswith("| text only | AdaCache | - | 10.0, 40.0 dB | - | - | - |")
    assert [len(rules(TASKS[0], cache)) for cache in policies().values()] == [1, 1, 1]
    assert [len(rules(TASKS[1], cache)) for cache in policies().values()] == [4, 4, 2]


def test_captions_differ_and_are_held_out():
    clips = clips_of(5, 17)
    assert len({clip.caption for clip in clips}) == 5
    assert all(parse_caption(clip.caption).held_out for clip in clips)
    assert np.array_equal(clips_of(5, 34)[3].frames[:17], clips[3].frames)


def test_a_small_run_compares_both_rules():
    config = load_config("configs/mini/sample.py", {}, {"scheduler.num_sampling_steps": 6})
    pipe = SamplingPipeline.from_config(config)
    edit = [task for task in TASKS if task.name == "edit at 0.5"]
    caches = {name: cache for name, cache in policies().items() if name == "every 4th step"}
    with tqdm(disable=True, total=num_videos(caches, edit, 2)) as bar:
        ours, upstream = measure(pipe, caches, edit, 2, 1, bar)
    assert num_videos(caches, edit, 2) == 6
    assert (ours.rule, upstream.rule) == ("ours", "upstream")
    assert upstream.computed == [2, 2] and ours.computed in ([2, 2], [3, 3])
    assert all(10 < value < 80 for value in ours.psnr + upstream.psnr)
