"""Plans: what they say, and what is refused at once."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig
from bench.plan import plan_from_dict, read_plan
from bench.points import average_velocity, calibrated_schedule
from bench.setting import load_sample_config
from opensora.errors import ConfigError
from support import small_model


def test_the_bundled_plans_are_valid():
    mini = read_plan("configs/bench/mini.py")
    assert [policy.name for policy in mini.policies][2:5] == ["static", "average_velocity", "adacache"]
    assert mini.showcase_prompts == (0, 1, 2, 3, 4, 5)
    assert mini.budgets == (6, 8, 12, 15)
    published = read_plan("configs/bench/open_sora_480p.py")
    assert published.budgets == (6, 8, 10, 12, 15, 20)
    full = {policy.name: policy for policy in published.policies}
    assert list(full) == [policy.name for policy in mini.policies if policy.name != "calibrated_solution"]
    assert full["adacache"].cache["metric_blocks"] == (13,)
    assert full["teacache"].cache["coefficients"] == "open-sora"
    finer = {policy.name: policy for policy in read_plan("configs/bench/open_sora_720p.py").policies}
    assert "coefficients" not in finer["teacache"].cache
    assert finer["adacache_moreg"].cache["moreg"]["window"] == (0.1, 0.9)


def test_further_budgets_are_a_policys_own(entries):
    entries["policies"]["adacache"]["further_budgets"] = (3, 7)
    plan = plan_from_dict(entries)
    adacache, fixed, steps = plan.policies
    assert plan.budgets_of(adacache) == (3, 5, 7)
    assert (plan.budgets_of(fixed), plan.budgets_of(steps)) == ((), (5, 7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": (4,)}, "unknown key 'budget'; did you mean 'budgets'?"),
        ({"budgets": (0, 4)}, "budgets must be numbers of computed steps from 1, got [0, 4]"),
        ({"budgets": ()}, "budgets is empty"),
        ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
        ({"exact_steps": "many"}, "exact_steps must be a whole number, got 'many'"),
        ({"baseline": "teacache"}, "baseline 'teacache' is no policy of this bench"),
        (
            {"policies": {name: {"title": "Steps", "steps": True} for name in ("fixed", "adacache")}},
            "title 'Steps' is that of two policies",
        ),
        ({"showcase_prompts": [-1]}, "showcase_prompts must be indices from 0"),
        ({"policies": {}}, "'policies' must be a dict of at least one policy"),
        ({"sample": None}, "sample must be text, got None"),
    ],
)
def test_a_wrong_entry_is_named(entries, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_from_dict({**entries, **change})


@pytest.mark.parametrize("key", ["budgets", "sample", "policies"])
def test_what_a_plan_needs_is_missed(entries, key):
    del entries[key]
    with pytest.raises(ConfigError, match=f"'{key}'"):
        plan_from_dict(entries)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"steps": True}, "'policies.new.title' is missing"),
        ({"title": "T"}, "it does not say how it meets budgets; give tune, steps=True or settings"),
        ({"title": "T", "steps": True, "tune": "calibrated"}, "tune and steps cannot be combined"),
        ({"title": "T", "tune": "treshold", "cache": {"policy": "fbcache"}}, "did you mean 'threshold'?"),
        ({"title": "T", "tune": "threshold", "cache": {"threshold": 1}}, "needs cache=dict(policy=...)"),
        ({"title": "T", "settings": [{"interval": 2}]}, "settings need cache=dict(policy=...)"),
        (
            {"title": "T", "settings": {"interval": 2}},
            "policies.new.settings must be a list (a dict each), got {'interval': 2}",
        ),
        ({"title": "T", "steps": True, "cache": {}}, "steps=True computes every step; leave cache out"),
        ({"title": "T", "settings": [{"policy": "fixed"}], "solver": "adams"}, "solver goes with steps=True"),
        ({"title": "T", "steps": True, "calibration": "c.json"}, "calibration goes with tune='calibrated'"),
        ({"title": "T", "steps": True, "further_budgets": (0,)}, "further_budgets must be numbers from 1"),
        ({"title": "T", "tune": "calibrated", "fallbacks": [{}]}, "fallbacks go with tune='threshold'"),
        ("fast", "policies.new must be a dict, got 'fast'"),
    ],
)
def test_a_policy_that_cannot_be_run_is_named(entries, policy, message):
    entries["policies"]["new"] = policy
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_from_dict(entries)


def test_a_reference_is_no_policy(entries):
    entries["policies"]["exact"] = {"title": "T", "steps": True}
    with pytest.raises(ConfigError, match="uncached and exact are the references"):
        plan_from_dict(entries)


def test_the_command_line_changes_a_plan(plan):
    changed = plan.with_changes(num_prompts=1, budgets=[6, 5, 6], policies=["fixed", "adacache"])
    assert (changed.num_prompts, changed.num_seeds, changed.budgets) == (1, 1, (5, 6))
    assert [policy.name for policy in changed.policies] == ["adacache", "fixed"]
    assert plan.with_changes() == plan
    other = plan.with_changes(sample="configs/sample_480p.py")
    assert (other.prompts, other.tuning_prompts) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policies": ["adacash"]}, "unknown policy 'adacash'; did you mean 'adacache'?"),
        ({"policies": ["fixed"]}, "--policies leaves out 'adacache', which gains are differences to"),
        ({"num_prompts": 0}, "--prompts must be at least 1, got 0"),
        ({"budgets": [0]}, "--budgets must be at least 1"),
    ],
)
def test_a_wrong_flag_is_named(plan, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan.with_changes(**change)


def test_showcase_budgets_are_among_the_budgets(entries):
    assert plan_from_dict(entries).showcase_budgets == (7,)
    assert plan_from_dict({**entries, "showcase_budgets": (5, 6)}).showcase_budgets == (5,)
    assert plan_from_dict({**entries, "showcase_budgets": (6,)}).showcase_budgets == (7,)


def test_a_sampling_config_is_no_plan():
    with pytest.raises(ConfigError, match="is a sampling config, not the plan of a bench; give it with --sample"):
        read_plan("configs/sample.py")


def test_another_solver_and_calibration_go_with_calibrated_schedules_only():
    policies = {"adacache": {"title": "AdaCache", "tune": "codebook", "cache": {"policy": "adacache"}}}
    for option, message in (
        ({"solver": "adams"}, "solver goes with steps=True or tune='calibrated'"),
        ({"calibration": "calibration.json"}, "calibration goes with tune='calibrated'"),
    ):
        entries = {"sample": small_model.SAMPLE, "policies": {"adacache": policies["adacache"] | option}}
        with pytest.raises(ConfigError, match=message):
            plan_from_dict(entries | {"budgets": [8]})


def test_the_lists_of_a_calibration_can_be_taken_alone():
    plan = read_plan("configs/bench/mini.py")
    config = load_sample_config(plan)
    policies = {policy.name: policy for policy in plan.policies}
    combined = calibrated_schedule(config, policies["calibrated"], 12)
    assert isinstance(combined, MultistepConfig)
    alone = calibrated_schedule(config, policies["static"], 12)
    assert alone == StaticScheduleConfig(combined.computed_steps, 30)
    mean = calibrated_schedule(config, policies["average_velocity"], 12)
    assert mean.computed_steps == combined.computed_steps and mean.coefficients != combined.coefficients
    to_solution = calibrated_schedule(config, policies["calibrated_solution"], 12)
    assert isinstance(to_solution, MultistepConfig) and to_solution != combined
    with pytest.raises(ConfigError, match="was made for solver euler, but this run has adams"):
        calibrated_schedule(config, replace(policies["calibrated"], solver="adams"), 12)


def test_the_average_velocity_of_a_gap_by_hand():
    # The second gap has steps of 100 and 200: a velocity that changes evenly is on average 200 * 100 / 300 further than
    # at its start, of the 200 between the outputs; the third 400 * 100 / 500 of 300. One step is taken as it is.
    first, second, third = average_velocity([0, 1, 3], [1000.0, 800.0, 700.0, 500.0, 400.0])
    assert first == (1.0,)
    assert second == pytest.approx((4 / 3, -1 / 3))
    assert third == pytest.approx((1 + 80 / 300, -80 / 300))
    assert average_velocity([0, 1, 2], [1000.0, 600.0, 200.0]) == [(1.0,)] * 3
