"""Which videos are kept."""

from __future__ import annotations

import dataclasses

from adacache.policies.fixed import FixedIntervalConfig
from adacache.policies.pab import PABConfig
from bench.points import BenchPoint, references
from bench.setting import BenchClip
from bench.showcase import make_showcase

FIXED = [BenchPoint("fixed", place=i, cache=FixedIntervalConfig(interval=i)) for i in (2, 3, 4)]
STEPS = [BenchPoint("euler_steps", n, num_steps=n) for n in (5, 7)]


def test_settings_are_shown_at_the_budget_they_are_nearest_to(plan, tmp_path):
    plan = dataclasses.replace(plan, budgets=(8, 14), showcase_budgets=(8, 14))
    showcase = make_showcase(tmp_path, plan, references(200), FIXED, 30)
    shown = [(point.key, budget) for point, budget in showcase.shown]
    # Every second of 30 steps are 15, every fourth 8.
    assert shown == [("uncached", None), ("exact", None), ("fixed#4", 8), ("fixed#2", 14)]


def test_where_steps_cannot_be_known_the_strongest_setting_is_shown(plan, tmp_path):
    [_, fixed, _] = plan.policies
    plan = dataclasses.replace(plan, policies=(*plan.policies, dataclasses.replace(fixed, name="pab", title="PAB")))
    pab = [BenchPoint("pab", place=i, cache=PABConfig(mlp_blocks=(0,), cross=5 + i)) for i in (1, 2)]
    showcase = make_showcase(tmp_path, plan, references(200), pab, 30)
    assert [point.key for point, _ in showcase.shown][2:] == ["pab#2"]


def test_videos_of_some_prompts_and_the_first_seed_are_kept(plan, tmp_path):
    plan = dataclasses.replace(plan, showcase_prompts=(1,), showcase_budgets=(7,))
    showcase = make_showcase(tmp_path, plan, references(200), STEPS, 30)
    assert showcase.has(BenchClip(1, 0, "b"), STEPS[1])
    assert not showcase.has(BenchClip(1, 0, "b"), STEPS[0])
    assert not showcase.has(BenchClip(1, 1, "b"), STEPS[1])
    assert not showcase.has(BenchClip(0, 0, "a"), STEPS[1])
    assert showcase.file(BenchClip(1, 0, "b"), STEPS[1]) != showcase.file(BenchClip(1, 0, "c"), STEPS[1])
    other = dataclasses.replace(showcase, setting="other")
    assert showcase.file(BenchClip(1, 0, "b"), STEPS[1]) != other.file(BenchClip(1, 0, "b"), STEPS[1])
    file = showcase.file(BenchClip(1, 0, "b"), STEPS[1])
    assert file.startswith("showcase/01-euler_steps-7-")
    assert showcase.lacks(BenchClip(1, 0, "b"), STEPS[1])
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).touch()
    assert not showcase.lacks(BenchClip(1, 0, "b"), STEPS[1])
