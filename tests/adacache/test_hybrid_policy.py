"""A plan is bent by measurements, with numbers worked out by hand, and never beyond its budget."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from adacache import Site
from adacache.policies.base import Measurement, Report
from adacache.policies.hybrid import HybridConfig

SITE = Site("temporal", 0, "attn")
STEPS = 13
# As a curve: 0 -> step 0, 1/4 -> 1, 1/2 -> 5, 3/4 -> 9, 1 -> 13.
PLAN = (0, 1, 5, 9)
CHANGE = (0.0,) + (0.1,) * (STEPS - 1)  # per step
MOTION = (0.0,) + (0.2,) * (STEPS - 1)


def config(plan: tuple[int, ...] = PLAN, **options: object) -> HybridConfig:
    return HybridConfig(plan, CHANGE, MOTION, metric_blocks=(0,), **{"distance_weight": 1, **options})


def schedule(
    config: HybridConfig,
    change: Callable[[int], float] = lambda step: 1,
    motion: Callable[[int], float] = lambda step: 1,
    num_steps: int = STEPS,
) -> list[int]:
    """The computed steps of a run that measures `change` and `motion` times what is expected."""
    policy, computed = config.make_policy(num_steps), []
    for step in range(num_steps):
        if policy.should_compute(step):
            measured = []
            if computed:
                expected = sum((config.expected_change or [0.1] * num_steps)[computed[-1] + 1 : step + 1])
                moving = motion(step) * 0.2 if policy.motion_strides(step) else None
                measured = [Measurement(SITE, change(step) * expected, moving)]
            policy.observe(step, measured)
            computed.append(step)
    return computed


def test_what_was_expected_gives_the_plan():
    assert schedule(config()) == list(PLAN)
    assert schedule(config(motion_weight=1)) == list(PLAN)


def test_without_weights_every_measurement_gives_the_plan():
    assert schedule(config(distance_weight=0), lambda step: 7.0, lambda step: 3.0) == list(PLAN)


@pytest.mark.parametrize("seed", range(20))
def test_any_plan_is_reproduced(seed):
    rng = random.Random(seed)
    num_steps = rng.randint(2, 100)
    plan = (0, *sorted(rng.sample(range(1, num_steps), rng.randint(1, num_steps - 1))))
    subject = HybridConfig(plan, (0.1,) * num_steps, distance_weight=1)
    # A whisker of rounding on either side changes nothing.
    assert schedule(subject, lambda step: 1 + rng.uniform(-1e-12, 1e-12), num_steps=num_steps) == list(plan)


def first(ratio: float) -> Callable[[int], float]:
    """Measures `ratio` times the expected at step 1, and the expected after that."""
    return lambda step: ratio if step == 1 else 1


def test_more_change_than_expected_brings_the_next_step_forward():
    # At 1/4 three quarters are left for 3 intervals. Half of 1/4 further is 3/8: step 3. There 5/8 are left for two
    # intervals: 5/16 further is 11/16, step 8.
    assert schedule(config(), first(2)) == [0, 1, 3, 8]


def test_less_change_than_expected_puts_it_off():
    # Twice 1/4 further is 3/4: step 9. Half of the rest is 7/8: step 11.
    assert schedule(config(), first(0.5)) == [0, 1, 9, 11]


def test_the_weight_is_an_exponent():
    assert schedule(config(distance_weight=0.5), first(4)) == [0, 1, 3, 8]
    assert schedule(config(distance_weight=2), first(math.sqrt(0.5))) == [0, 1, 9, 11]


@pytest.mark.parametrize("ratio", [2, 50, math.inf, math.nan])
def test_a_measurement_counts_at_most_twice(ratio):
    assert schedule(config(), first(ratio)) == [0, 1, 3, 8]


@pytest.mark.parametrize("ratio", [0.5, 0.01, 0.0])
def test_a_measurement_counts_at_least_half(ratio):
    assert schedule(config(), first(ratio)) == [0, 1, 9, 11]


def test_motion_counts_as_distance_does():
    moving = config(distance_weight=0, motion_weight=1)
    assert schedule(moving, motion=first(2)) == [0, 1, 3, 8]
    assert schedule(moving, motion=first(0.5)) == [0, 1, 9, 11]
    assert schedule(config(motion_weight=1), first(0.5), first(2)) == list(PLAN)


def test_the_expected_change_of_an_interval_is_the_sum_over_its_steps():
    change = (0, 0.4, 0.1, 0.1, 0.1, 0.1, *[0.3] * 7)
    policy = HybridConfig(PLAN, change, distance_weight=1).make_policy(STEPS)
    policy.observe(0, [])
    policy.observe(1, [Measurement(SITE, 0.4)])
    assert policy.should_compute(5)
    # 0.2 where 0.4 was expected: a half, so that 1/2 is followed by 1/2 + 2 * 1/4 = 1, the end; one step is left to
    # compute, though, so it is the last one.
    assert policy.observe(5, [Measurement(SITE, 0.2)]).rate == 7
    assert policy.should_compute(12)


def test_several_blocks_are_averaged():
    policy = config(metric="ca-mlp").make_policy(STEPS)
    policy.observe(0, [])
    report = policy.observe(1, [Measurement(SITE, 0.3), Measurement(SITE, 0.1)])
    assert (report.distance, report.rate) == (pytest.approx(0.2), 2)


def test_what_is_reported():
    policy = config(motion_weight=1).make_policy(STEPS)
    assert policy.observe(0, []) == Report(rate=1)
    policy.observe(1, [Measurement(SITE, 0.1, 0.2)])
    report = policy.observe(5, [Measurement(SITE, 0.4, 0.3)])
    assert report.distance == pytest.approx(0.1)  # per step
    assert report.motion_score == pytest.approx(1.5)  # over the expected
    assert report.value == pytest.approx(0.15)
    assert report.rate == 3  # 1/2 + 1/4 / 1.5 = 2/3: step 7.67


def test_asking_changes_nothing():
    policy = config().make_policy(STEPS)
    policy.observe(0, [])
    assert [policy.should_compute(step) for step in (1, 1, 2, 1)] == [True, True, False, True]


def test_an_image_is_scheduled_by_distance_alone():
    policy = config(motion_weight=1, motion_budget=1).make_policy(STEPS)
    policy.observe(0, [])
    report = policy.observe(1, [Measurement(SITE, 0.1)])
    assert (report.motion_score, report.rate) == (None, 6)  # 3 of 4 steps: 1/4 + 3/4 / 2 = 5/8, step 7


def test_motion_is_measured_only_where_it_decides():
    def asked(**options: object) -> list[int]:
        policy = config(motion_strides=(1, 2), **options).make_policy(STEPS)
        return [step for step in range(STEPS) if policy.motion_strides(step)]

    assert asked() == []
    assert asked(motion_weight=0.5) == list(range(STEPS))
    assert asked(motion_budget=1) == [0, 1, 2, 3]  # below a quarter of 13
    assert asked(motion_budget=1, motion_window=0.5) == [0, 1, 2, 3, 4, 5, 6]


def test_another_budget_stretches_the_plan():
    assert schedule(config(max_steps_computed=2)) == [0, 5]  # half of the curve
    assert len(schedule(config(max_steps_computed=7))) == 7
    assert schedule(config(max_steps_computed=STEPS)) == list(range(STEPS))


@pytest.mark.parametrize(
    ("ratio", "count"), [(0.1, 4), (0.5, 4), (2**-0.5, 5), (0.9, 6), (1, 6), (1.1, 6), (2**0.5, 7), (2, 8), (9, 8)]
)
def test_early_motion_decides_about_the_budget(ratio, count):
    plan = (0, 1, 2, 3, 6, 8, 9, 11)
    subject = config(plan, motion_budget=2, distance_weight=0)  # 8 - 2 computed steps, and up to 2 more or less
    assert len(schedule(subject, motion=lambda step: ratio)) == count


def test_only_early_motion_decides_about_the_budget():
    plan = (0, 1, 2, 3, 6, 8, 9, 11)
    subject = config(plan, motion_budget=2, distance_weight=0, motion_weight=0.1)
    assert len(schedule(subject, motion=lambda step: 1 if step <= 3 else 8)) == 6


@pytest.mark.parametrize("seed", range(50))
def test_no_measurements_exceed_the_budget(seed):
    rng = random.Random(seed)
    num_steps = rng.randint(6, 60)
    plan = (0, *sorted(rng.sample(range(1, num_steps), rng.randint(3, num_steps - 1))))
    numbers = (0.1,) * num_steps
    limit = rng.choice([None, rng.randint(3, num_steps)])

    def anything(step: int) -> float:
        return rng.choice([0.0, math.inf, math.nan, 10 ** rng.uniform(-3, 3)])

    weights = {"distance_weight": rng.uniform(0, 3), "motion_weight": rng.choice([0, rng.uniform(0, 3)])}
    subject = HybridConfig(plan, numbers, numbers, max_steps_computed=limit, **weights)
    budget = limit or len(plan)
    assert len(schedule(subject, anything, anything, num_steps)) == budget  # all of it, too
    moving = HybridConfig(plan, numbers, numbers, max_steps_computed=limit, motion_budget=1, **weights)
    assert len(schedule(moving, anything, anything, num_steps)) <= budget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"computed_steps": [1, 2]}, "computed_steps must ascend from 0"),
        ({"distance_weight": -1}, "distance_weight must be a finite number >= 0"),
        ({"motion_weight": "x"}, "motion_weight must be a finite number >= 0"),
        ({"expected_change": [0.1, 0]}, "expected_change must be a list of numbers above 0"),
        ({"expected_change": "high"}, "expected_change must be a list of numbers above 0"),
        ({"expected_change": None, "distance_weight": 1}, "distance_weight 1 needs expected_change"),
        ({"expected_motion": None, "motion_weight": 1}, "motion_weight 1 needs expected_motion"),
        ({"expected_motion": None, "motion_budget": 1}, "motion_budget 1 needs expected_motion"),
        ({"motion_budget": 0.5}, "motion_budget must be a whole number >= 0"),
        ({"motion_budget": 2}, "motion_budget 2 can take all of the 4 computed steps"),
        ({"motion_window": 0}, "motion_window must be a fraction of the run above 0"),
        ({"motion_strides": []}, "motion_strides must be a list of whole numbers >= 1"),
        ({"max_steps_computed": 0}, "max_steps_computed must be a whole number >= 1"),
        ({"metric": "attn"}, "metric 'attn' is unknown"),
        ({"expected_changes": [1]}, "unknown hybrid schedule option 'expected_changes', did you mean"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HybridConfig.from_dict({**config().to_dict(), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expected_motion": (0.1,) * 12}, "expected_motion has 12 numbers, but the run has 13 steps"),
        ({"computed_steps": (0, 13)}, "computed_steps reach to 13"),
        ({"num_sampling_steps": 30}, "made for 30 sampling steps"),
        ({"max_steps_computed": 14}, "max_steps_computed is 14, but the run has 13 steps"),
        ({"metric_blocks": (4,)}, "metric_blocks .* do not fit a model of 4 blocks"),
    ],
)
def test_options_that_do_not_fit_the_run_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HybridConfig.from_dict({**config().to_dict(), **options}).validate(STEPS, num_blocks=4)


def test_a_config_comes_back_from_plain_values():
    subject = config(motion_budget=1, bridge="fitted", cache_dtype="bf16", num_sampling_steps=STEPS)
    assert HybridConfig.from_dict(subject.to_dict()) == subject
    assert subject.to_dict()["bridge"]["kind"] == "fitted"
