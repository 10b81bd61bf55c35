import json
from pathlib import Path

import pytest

from adacache import AdaCacheConfig, Codebook, Site
from adacache.policies.adacache import AdaCachePolicy
from adacache.policies.base import Measurement

CASES = json.loads((Path(__file__).parents[1] / "golden" / "adacache" / "cases.json").read_text())
SITE = Site("temporal", 0, "attn")


def policy(codebook: Codebook, num_steps: int, **options: object) -> AdaCachePolicy:
    return AdaCacheConfig(codebook, metric_blocks=(0,), **options).make_policy(num_steps)


def replay(policy: AdaCachePolicy, num_steps: int, *measured: tuple[float, float | None]) -> list[int]:
    """The computed steps of a run that measures one (distance, motion) after the other, then the last one again."""
    computed, waiting = [], list(measured)
    for step in range(num_steps):
        if policy.should_compute(step):
            distance, motion = waiting[0] if len(waiting) == 1 else waiting.pop(0) if computed else (0, 0)
            policy.observe(step, [Measurement(SITE, distance, motion)] if computed else [])
            computed.append(step)
    return computed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_policy_takes_the_decisions_of_the_official_code(case):
    policy = AdaCacheConfig.from_dict(case["config"]).make_policy(case["steps"])
    sites = [group[-1] for group in policy.observed_sites]
    recorded: dict[int, list[dict]] = {}
    for entry in case["observations"]:
        recorded.setdefault(entry["step"] - 1, []).append(entry)

    computed = []
    for step in range(case["steps"]):
        if not policy.should_compute(step):
            continue
        computed.append(step)
        entries = recorded.get(step, [])
        assert len(entries) == (len(sites) if step > 0 else 0)
        assert bool(policy.motion_strides(step)) == any("moreg_raw" in entry for entry in entries)
        measurements = [
            Measurement(site, entry["raw"], entry.get("moreg_raw"))
            for site, entry in zip(sites, entries, strict=bool(entries))
        ]
        policy.observe(step, measurements)
        for seen, entry in zip(policy.observations, entries, strict=True):
            assert (seen.site.stream == "temporal", seen.site.block) == (entry["temporal"], entry["blk_id"])
            assert seen.per_step == pytest.approx(entry["per_step"], rel=1e-6)
            assert seen.mean == pytest.approx(entry["avg"], rel=1e-6)
            # The reference subtracts nearly equal motion scores in float32, hence the wider bounds.
            assert seen.motion_score == pytest.approx(entry.get("moreg_pow", 1), rel=1e-6)
            gradient_error = 1e-5 * max(1, seen.motion_score)
            assert seen.motion_gradient == pytest.approx(entry.get("mograd", 0), rel=1e-6, abs=gradient_error)
            assert seen.value == pytest.approx(entry["final"], rel=1e-5 if "moreg_pow" in entry else 1e-6)
            assert seen.rate == entry["new_rate"]
    assert [step + 1 for step in computed] == case["recomputed_steps"]


def test_a_fixed_interval_counts_from_the_second_step_and_ends_with_two_computed_ones():
    assert replay(policy(Codebook((), (3,)), 12), 12, (1.0, None)) == [0, 1, 4, 7, 10, 11]
    assert replay(policy(Codebook((), (1,)), 4), 4, (1.0, None)) == [0, 1, 2, 3]
    assert replay(policy(Codebook((), (100,)), 9), 9, (1.0, None)) == [0, 1, 7, 8]


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_short_runs_are_computed_whole(num_steps):
    steps = list(range(num_steps))
    assert replay(policy(Codebook((), (9,)), num_steps), num_steps, (0.0, None)) == steps
    assert replay(policy(Codebook((), (9,)), num_steps, moreg=True), num_steps, (0.0, 0.5)) == steps


def test_distances_are_divided_by_the_rate_in_force():
    table = Codebook((0.1,), (4, 2))
    # Step 1: 0.3 -> rate 2. Step 3: 0.3 / 2 = 0.15 -> rate 2. Step 5: 0.18 / 2 = 0.09 -> rate 4. Step 9: the same.
    assert replay(policy(table, 20), 20, (0.3, None), (0.3, None), (0.18, None)) == [0, 1, 3, 5, 9, 13, 17, 18, 19]


def test_the_division_uses_the_rate_even_where_a_forced_step_came_early():
    subject = policy(Codebook((0.1,), (6, 2)), 6)
    subject.observe(0, [])
    subject.observe(1, [Measurement(SITE, 0.05)])
    assert subject.should_compute(4)  # forced; by its rate of 6 it would be step 7
    report = subject.observe(4, [Measurement(SITE, 0.6)])
    assert report.distance == pytest.approx(0.1)  # 0.6 / 6, though only 3 steps have passed


def test_asking_changes_nothing():
    subject = policy(Codebook((), (3,)), 12)
    subject.observe(0, [])
    assert [subject.should_compute(1) for _ in range(3)] == [True] * 3
    subject.observe(1, [Measurement(SITE, 0.1)])
    assert [subject.should_compute(step) for step in (2, 3, 4, 4, 5)] == [False, False, True, True, False]


def test_the_mean_runs_over_the_measurements_of_one_step_and_the_last_one_decides():
    subject = AdaCacheConfig(Codebook((0.3,), (5, 2)), metric_blocks=(0, 1)).make_policy(20)
    sites = [group[0] for group in subject.observed_sites]
    subject.observe(0, [])
    report = subject.observe(1, [Measurement(sites[0], 0.5), Measurement(sites[1], 0.0)])
    assert [seen.mean for seen in subject.observations] == [0.5, 0.25]
    assert [seen.rate for seen in subject.observations] == [2, 5]
    assert (report.distance, report.value, report.rate) == (0.25, 0.25, 5)
    assert report.motion_score is None


def test_motion_multiplies_the_distance_inside_the_window_only():
    moreg = {"scale": 0.5, "power": 2, "divisor": 1, "gradient_weight": 1, "window": (3, 4)}
    subject = policy(Codebook((), (1,)), 10, moreg=moreg)
    assert [subject.motion_strides(step) for step in range(5)] == [(), (), (1,), (1,), ()]
    subject.observe(0, [])
    before = subject.observe(1, [Measurement(SITE, 0.1)])
    inside = subject.observe(2, [Measurement(SITE, 0.1, 1.0)])  # score (1 / 0.5)^2 = 4, gradient 4 - 1 = 3
    still = subject.observe(3, [Measurement(SITE, 0.1, 0.25)])  # score 0.25, gradient 0.25 - 4
    after = subject.observe(4, [Measurement(SITE, 0.1)])  # score 1, gradient 1 - 0.25
    assert (before.motion_score, before.motion_gradient, before.value) == (1, 0, 0.1)
    assert (inside.motion_score, inside.motion_gradient) == (4, 3)
    assert inside.distance == 0.1
    assert inside.value == pytest.approx(0.1 * (4 + 3))
    assert still.value == pytest.approx(0.1 * (0.25 + 3.75))
    assert after.value == pytest.approx(0.1 * (1 + 0.75))


def test_the_motion_gradient_is_per_step():
    moreg = {"scale": 0.5, "power": 1, "gradient_weight": 10, "window": (1, 20)}
    subject = policy(Codebook((), (4,)), 20, moreg=moreg)
    subject.observe(0, [])
    subject.observe(1, [Measurement(SITE, 0.1, 0.5)])  # score 1
    assert subject.observe(5, [Measurement(SITE, 0.1, 0.75)]).motion_gradient == pytest.approx(10 * 0.5 / 4)


def test_before_the_first_motion_the_score_was_neutral():
    moreg = {"scale": 1, "power": 1, "gradient_weight": 1, "window": (1, 20)}
    subject = policy(Codebook((), (1,)), 20, moreg=moreg)
    subject.observe(0, [])
    assert subject.observe(1, [Measurement(SITE, 0.1, 0.25)]).motion_gradient == 0.25 - 1


def test_every_block_has_its_own_previous_motion():
    moreg = {"scale": 1, "power": 1, "gradient_weight": 1, "window": (1, 20)}
    subject = AdaCacheConfig(Codebook((), (1,)), "ca-mlp", (0,), moreg).make_policy(20)
    spatial, temporal = (group[-1] for group in subject.observed_sites)
    subject.observe(0, [])
    subject.observe(1, [Measurement(spatial, 0.1, 0.5), Measurement(temporal, 0.1, 0.25)])
    subject.observe(2, [Measurement(spatial, 0.1, 0.5), Measurement(temporal, 0.1, 0.75)])
    assert [seen.motion_gradient for seen in subject.observations] == [0, 0.5]


def test_an_image_is_scheduled_by_distance_alone():
    subject = policy(Codebook((), (1,)), 10, moreg=True)
    subject.observe(0, [])
    for step in range(1, 10):
        assert subject.observe(step, [Measurement(SITE, 0.1, None)]).value == 0.1


def test_a_distance_that_is_no_number_takes_the_last_rate():
    subject = policy(Codebook((0.1,), (6, 2)), 20)
    subject.observe(0, [])
    assert subject.observe(1, [Measurement(SITE, float("nan"))]).rate == 2


def test_the_metrics_observe_the_branches_of_the_official_code():
    def sites(metric: str) -> list[tuple[str, ...]]:
        return [
            tuple(map(str, group))
            for group in AdaCacheConfig(metric=metric, metric_blocks=(7, 2)).make_policy(9).observed_sites
        ]

    assert sites("t-attn") == [("temporal block 2 attn",), ("temporal block 7 attn",)]
    assert sites("s-attn") == [("spatial block 2 attn",), ("spatial block 7 attn",)]
    assert sites("ca-mlp") == [
        ("spatial block 2 cross", "spatial block 2 mlp"),
        ("temporal block 2 cross", "temporal block 2 mlp"),
        ("spatial block 7 cross", "spatial block 7 mlp"),
        ("temporal block 7 cross", "temporal block 7 mlp"),
    ]
