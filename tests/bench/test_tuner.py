"""From plans to points, without sampling where policies allow it."""

from __future__ import annotations

import math
import re

import pytest

from adacache.calibration.plan import Clip
from adacache.policies.multistep import MultistepConfig
from adacache.policies.registry import config_from_dict, config_to_dict
from adacache.policies.static import StaticScheduleConfig
from bench.plan import plan_from_dict
from bench.points import check_options
from bench.setting import load_sample_config
from bench.tuner import TunedFile, Tuner
from bench.tuning import Tried
from opensora.config.loading import load_config
from opensora.errors import ConfigError

CLIPS = [Clip("a red circle", 0)]
RATIOS = [0.98] * 29


def no_model():
    pytest.fail("nothing had to be sampled")


def make_tuner(entries, policies, tmp_path, finished=lambda _: None, deadline=math.inf, **changes):
    baseline = next(iter(policies))
    plan = plan_from_dict({**entries, **changes, "policies": policies, "baseline": baseline})
    config = load_sample_config(plan)
    check_options(plan, config)
    return Tuner(plan, config, no_model, CLIPS, TunedFile(tmp_path / "tuned.json", {}), finished, deadline)


def test_a_planned_policy_is_tuned_without_sampling(entries, tmp_path):
    magcache = {
        "title": "MagCache",
        "tune": "threshold",
        "cache": {"policy": "magcache", "ratios": RATIOS},
    }
    tuner = make_tuner(entries, {"magcache": magcache}, tmp_path, budgets=(8, 14))
    [point] = tuner.points()
    assert point.key == "magcache@14"
    assert len(point.cache.planned_steps(30)) == 14
    assert tuner.left_out == ["MagCache cannot compute 8 of 30 steps on average: nearest 12.0."]


def test_when_time_is_up_only_the_baseline_is_tuned_and_only_to_one_budget(entries, tmp_path, monkeypatch):
    sampled = []

    def try_policy(runner, config, clips, exact):
        sampled.append(config)
        return Tried(30 - 25 * min(config.threshold, 1.0), 0.0)

    monkeypatch.setattr("bench.tuner.try_policy", try_policy)
    monkeypatch.setattr(Tuner, "_runner", None)
    monkeypatch.setattr(Tuner, "_exact", None)
    policies = {
        name: {"title": name, "tune": "threshold", "cache": {"policy": name}} for name in ("easycache", "fbcache")
    }
    tuner = make_tuner(entries, policies, tmp_path, deadline=-math.inf, budgets=(8, 14))
    assert [point.key for point in tuner.points()] == ["easycache@8"]
    assert {type(config).__name__ for config in sampled} == {"EasyCacheConfig"}
    assert tuner.left_out == [
        f"{name} was not tuned to {budget} steps in the time that was given."
        for name, budget in (("easycache", 14), ("fbcache", 8), ("fbcache", 14))
    ]


def test_when_time_is_up_no_constants_are_measured_either(entries, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.tuner.try_policy", lambda runner, config, clips, exact: Tried(8.0, 0.0))
    monkeypatch.setattr("bench.tuner.calibrate_policies", lambda runner, clips: pytest.fail("sampled"))
    monkeypatch.setattr(Tuner, "_runner", None)
    monkeypatch.setattr(Tuner, "_exact", None)
    policies = {
        name: {"title": name, "tune": "threshold", "cache": {"policy": name}} for name in ("easycache", "teacache")
    }
    policies["magcache"] = {"title": "MagCache", "cache": {"policy": "magcache"}, "settings": [{"threshold": 0.1}]}
    tuner = make_tuner(entries, policies, tmp_path, deadline=-math.inf, budgets=(8,))
    assert [point.key for point in tuner.points()] == ["easycache@8"]
    assert tuner.left_out == [
        "teacache was not tuned to 8 steps in the time that was given.",
        "MagCache was not fitted to the model in the time that was given.",
    ]


def test_a_fallback_is_taken_only_where_it_is_needed(entries, tmp_path):
    magcache = {
        "title": "MagCache",
        "tune": "threshold",
        "cache": {"policy": "magcache", "ratios": RATIOS},
        "fallbacks": [{"max_skips": 6, "retention": 0.1}],
    }
    tuner = make_tuner(entries, {"magcache": magcache}, tmp_path, budgets=(8, 14))
    points = tuner.points()
    assert [point.cache.max_skips for point in points] == [6, 3]
    assert [len(point.cache.planned_steps(30)) for point in points] == [8, 14]
    assert tuner.left_out == []


def test_settings_steps_and_calibrated_schedules_need_no_tuning(entries, tmp_path):
    policies = {
        "fixed": entries["policies"]["fixed"],
        "adams": {"title": "Adams", "steps": True, "solver": "adams"},
        "static": {"title": "Static", "tune": "calibrated", "cache": {"policy": "static", "bridge": "hold"}},
        "calibrated": {"title": "Calibrated", "tune": "calibrated"},
    }
    points = make_tuner(entries, policies, tmp_path, budgets=(8, 12)).points()
    assert [point.key for point in points] == [
        *("fixed#1", "fixed#2", "adams@8", "adams@12"),
        *("static@8", "static@12", "calibrated@8", "calibrated@12"),
    ]
    by_key = {point.key: point for point in points}
    assert by_key["adams@8"].options == {"solver": "adams", "num_sampling_steps": 8}
    assert by_key["static@8"].cache.computed_steps == by_key["calibrated@8"].cache.computed_steps
    assert len(by_key["static@12"].cache.computed_steps) == 12
    assert type(by_key["static@8"].cache) is StaticScheduleConfig
    assert type(by_key["calibrated@8"].cache) is MultistepConfig
    assert len({point.digest for point in points}) == len(points)


def test_counts_that_a_calibration_has_no_list_for_are_left_out(entries, tmp_path):
    policies = {"calibrated": {"title": "Calibrated", "tune": "calibrated"}}
    tuner = make_tuner(entries, policies, tmp_path, budgets=(8, 9))
    assert [point.key for point in tuner.points()] == ["calibrated@8"]
    assert tuner.left_out == ["Calibrated has no schedule of 9 of 30 steps: nearest 8."]


def test_further_budgets_that_do_not_fit_the_run_are_passed_over(entries, tmp_path):
    policies = {"steps": {"title": "Steps", "steps": True, "further_budgets": (24,)}}
    options = {"scheduler.num_sampling_steps": 20}
    tuner = make_tuner(entries, policies, tmp_path, budgets=(8,), sample_options=options)
    assert [point.budget for point in tuner.points()] == [8]


def test_without_a_calibration_the_others_are_run(entries, tmp_path):
    policies = {
        "fixed": entries["policies"]["fixed"],
        "calibrated": {"title": "Calibrated", "tune": "calibrated"},
    }
    tuner = make_tuner(entries, policies, tmp_path, sample_options={"calibration": None})
    assert [point.policy for point in tuner.points()] == ["fixed", "fixed"]
    assert re.match("Calibrated: .* needs a calibration of this model", tuner.left_out[0])


def test_without_time_only_what_was_tried_is_tuned(entries, tmp_path):
    fbcache = {"title": "FBCache", "tune": "threshold", "cache": {"policy": "fbcache"}}
    policies = {
        "magcache": {"title": "MagCache", "tune": "threshold", "cache": {"policy": "magcache", "ratios": RATIOS}},
        "fbcache": fbcache,
        "other": {**fbcache, "title": "Other", "cache": {"policy": "easycache"}},
    }
    options = config_to_dict(config_from_dict({"policy": "easycache", "threshold": 10.0}))
    TunedFile(tmp_path / "tuned.json", {}).keep_tried(options, Tried(14.1, -3.0))
    told = []
    tuner = make_tuner(entries, policies, tmp_path, told.append, 0.0, budgets=(14,))
    assert [point.key for point in tuner.points()] == ["magcache@14", "other@14"]
    assert told == ["magcache", "other"]
    assert tuner.left_out == ["FBCache was not tuned to 14 steps in the time that was given."]


def test_what_was_tried_is_kept(entries, tmp_path):
    file = TunedFile(tmp_path / "tuned.json", {"weights": "abc"})
    file.keep_tried({"policy": "fbcache", "threshold": 0.1}, Tried(12.5, -3.0))
    again = TunedFile(tmp_path / "tuned.json", {"weights": "abc"})
    assert again.tried({"threshold": 0.1, "policy": "fbcache"}) == Tried(12.5, -3.0)
    assert again.tried({"policy": "fbcache", "threshold": 0.2}) is None
    other = TunedFile(tmp_path / "tuned.json", {"weights": "def"})
    assert other.tried({"policy": "fbcache", "threshold": 0.1}) is None
    other.keep_tried({"policy": "fbcache", "threshold": 0.2}, Tried(9.0, -3.0))
    again = TunedFile(tmp_path / "tuned.json", {"weights": "abc"})
    assert again.tried({"policy": "fbcache", "threshold": 0.1}) == Tried(12.5, -3.0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"tune": "threshold", "cache": {"policy": "fbcash"}}, "policies.new: policy 'fbcash' is unknown"),
        ({"tune": "threshold", "cache": {"policy": "fixed"}}, "policy 'fixed' has no option 'threshold'"),
        ({"tune": "codebook", "cache": {"policy": "fbcache"}}, "policies.new: "),
        ({"tune": "codebook", "cache": {"policy": "adacache", "metric_blocks": (9,)}}, "policies.new: "),
        ({"settings": [{"intervall": 2}], "cache": {"policy": "fixed"}}, "did you mean 'interval'?"),
        ({"settings": [{"mlp_blocks": (9,)}], "cache": {"policy": "pab"}}, "mlp_blocks [9] do not fit a model of 4"),
    ],
)
def test_options_that_no_run_could_use_are_refused_early(entries, policy, message):
    entries["policies"]["new"] = {"title": "New", **policy}
    plan = plan_from_dict(entries)
    with pytest.raises(ConfigError) as caught:
        check_options(plan, load_sample_config(plan))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        (
            {"tune": "calibrated", "cache": {"policy": "average_velocity"}},
            {},
            "policies.new: average_velocity needs Open-Sora's rectified flow",
        ),
        ({"steps": True, "solver": "adams"}, {}, "policies.new: solver='adams' needs Open-Sora's rectified flow"),
        ({"steps": True}, {"exact_solver": "adams"}, "exact_solver='adams' needs Open-Sora's rectified flow; set"),
        ({"tune": "threshold", "cache": {"policy": "teacache"}}, {}, "teacache is fitted on STDiT3 alone"),
    ],
)
def test_what_knows_rectified_flow_alone_is_refused_elsewhere(entries, policy, changes, message):
    """Latte foretells noise."""
    policies = {"new": {"title": "New", **policy}}
    plan = plan_from_dict({**entries, "exact_solver": None, **changes, "policies": policies, "baseline": "new"})
    with pytest.raises(ConfigError, match=message):
        check_options(plan, load_config("configs/latte/sample.py"))


def test_a_codebook_of_other_steps_is_pointed_out(entries, caplog):
    codebook = {"thresholds": [0.1], "rates": [2, 1], "num_sampling_steps": 100}
    cache = {"policy": "adacache", "metric_blocks": (2,)}
    entries["policies"]["new"] = {"title": "New", "cache": cache, "settings": [{"codebook": codebook}]}
    plan = plan_from_dict(entries)
    check_options(plan, load_sample_config(plan))
    (message,) = caplog.messages
    assert message.startswith("policies.new: ") and "tuned for 100 sampling steps, but this run has 30" in message
