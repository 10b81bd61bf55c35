"""The options of AdaCache and the schedules they lead to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adacache import AdaCacheConfig, BridgeConfig, Codebook, MoRegConfig, Site
from adacache.policies.adacache import AdaCachePolicy
from adacache.policies.base import Measurement

OFFICIAL = {
    "do_cache": True,
    "cache_res": "ca-mlp",
    "cache_loc": [2, 0],
    "codebook": {"0.08": 6, "0.16": 5, "0.24": 4, "0.32": 3, "0.40": 2, "1.00": 1},
    "apply_moreg": True,
    "moreg_strides": [1, 2],
    "moreg_steps": [4, 26],
    "moreg_hyp": [0.385, 8, 1, 2],
    "mograd_mul": 10,
    "num_sampling_steps": 30,
}
OWN = {
    "codebook": "fast30",
    "metric": "ca-mlp",
    "metric_blocks": [0, 2],
    "moreg": {"strides": [1, 2], "window": [4, 26]},
    "schedule": "batch",  # what the official code does
}


def test_official_options_and_own_options_mean_the_same():
    assert AdaCacheConfig.from_dict(OFFICIAL) == AdaCacheConfig.from_dict(OWN)


def test_the_official_moreg_options_land_in_their_fields():
    moreg = AdaCacheConfig.from_dict({**OFFICIAL, "moreg_hyp": (0.5, 4, 3), "mograd_mul": 7}).moreg
    assert moreg == MoRegConfig(0.5, 4, 3, gradient_weight=7, strides=(1, 2), window=(4, 26))


def test_defaults_are_the_same_in_both_vocabularies():
    assert AdaCacheConfig.from_dict({}) == AdaCacheConfig()
    assert AdaCacheConfig.from_dict({"do_cache": True}) == AdaCacheConfig(schedule="batch")
    assert AdaCacheConfig() == AdaCacheConfig("steps100", "t-attn", (13,), None)
    official = AdaCacheConfig.from_dict({"apply_moreg": True})
    assert official.moreg == MoRegConfig(0.385, 8, 1, 10, (1,), (10, 90)) == MoRegConfig(window=(10, 90))
    assert official.moreg.resolve_window(100) == MoRegConfig().resolve_window(100)


def test_each_video_decides_for_itself_unless_the_official_names_are_used():
    assert AdaCacheConfig().schedule == "sample"
    assert AdaCacheConfig.from_dict(OFFICIAL).schedule == "batch"
    with pytest.raises(ValueError, match="schedule 'video' is unknown"):
        AdaCacheConfig(schedule="video")


def test_a_bridge_is_named_or_spelled_out():
    assert AdaCacheConfig().bridge == BridgeConfig("hold")
    assert AdaCacheConfig(bridge="fitted").bridge == BridgeConfig("fitted")
    assert AdaCacheConfig(bridge={"kind": "linear", "weight": 0.5}).bridge == BridgeConfig("linear", 0.5)


@pytest.mark.parametrize(
    ("bridge", "words"),
    [
        ("liner", "bridge kind 'liner' is unknown, did you mean 'linear'"),
        ({"kind": "linear", "wieght": 1}, "unknown bridge option 'wieght', did you mean 'weight'"),
        ({"kind": "linear", "weight": 2}, "bridge weight must lie between 0 and 1"),
        ({"kind": "linear", "weight": -1}, "bridge weight must be a finite number >= 0"),
        ({"kind": "fitted", "max_ratio": 0}, "bridge max_ratio must be a finite number above 0"),
        (
            {"weight": 0.9},
            "bridge kind 'hold' has no weight; choose kind 'linear' or 'fitted' or 'exponential', or leave",
        ),
        ({"kind": "exponential", "max_ratio": 2.0}, "bridge kind 'exponential' has no max_ratio; choose"),
        ({"kind": "linear", "order": 2}, "bridge kind 'linear' has no order; choose kind 'taylor', or leave it out"),
        (0.5, "bridge must be one of hold, linear, fitted"),
    ],
)
def test_a_wrong_bridge_is_refused_in_words(bridge, words):
    with pytest.raises(ValueError, match=words):
        AdaCacheConfig(bridge=bridge)


def test_residuals_stay_where_and_as_they_are_unless_told_otherwise():
    assert (AdaCacheConfig().cache_device, AdaCacheConfig().cache_dtype) == ("model", None)
    for dtype in ("fp32", "bf16", "fp16", None):
        config = AdaCacheConfig(cache_device="cpu", cache_dtype=dtype)
        assert (config.to_dict()["cache_device"], config.to_dict()["cache_dtype"]) == ("cpu", dtype)
        assert AdaCacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_device": "gpu"}, "cache_device 'gpu' is unknown.* \\(valid: model, cpu\\)"),
        ({"cache_device": None}, "cache_device None is unknown"),
        ({"cache_dtype": "bfloat16"}, "cache_dtype 'bfloat16' is unknown, did you mean 'bf16'"),
        ({"cache_dtype": ["bf16"]}, r"cache_dtype \['bf16'\] is unknown"),
        ({"cache_divice": "cpu"}, "'cache_divice', did you mean 'cache_device'"),
    ],
)
def test_a_wrong_place_or_precision_is_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        AdaCacheConfig.from_dict(options)
    assert "\n" not in str(caught.value)


def test_do_cache_false_means_no_caching():
    assert AdaCacheConfig.from_dict({**OFFICIAL, "do_cache": False}) is None


@pytest.mark.parametrize("weight", [-1, float("nan"), "10"])
def test_a_gradient_weight_that_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match="moreg gradient_weight"):
        MoRegConfig(gradient_weight=weight)


def test_moreg_takes_true_false_none_or_its_options():
    assert AdaCacheConfig(moreg=True).moreg == MoRegConfig()
    assert AdaCacheConfig(moreg=False).moreg is None
    assert AdaCacheConfig(moreg=None).moreg is None
    assert AdaCacheConfig(moreg={"scale": 0.5}).moreg == MoRegConfig(scale=0.5)


@pytest.mark.parametrize("moreg", [None, True, {"window": (4, 26), "gradient_weight": 0}])
def test_a_config_survives_json(moreg):
    config = AdaCacheConfig(codebook="slow30", metric="s-attn", metric_blocks=(1, 5), moreg=moreg)
    assert AdaCacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_is_hashable_and_cannot_change():
    config = AdaCacheConfig.from_dict(OWN)
    assert hash(config) == hash(AdaCacheConfig.from_dict(OWN))
    with pytest.raises(AttributeError):
        config.metric = "t-attn"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric_block": [1]}, "unknown AdaCache option 'metric_block'.*'metric_blocks'"),
        ({"zzz": 1}, r"unknown AdaCache option 'zzz' \(valid: bridge, .*, moreg, do_cache, cache_res, cache_loc, "),
        ({"do_cash": True}, "'do_cash'.*'do_cache'"),
        ({"do_cache": True, "cache_locs": [1]}, "'cache_locs'.*'cache_loc'"),
        ({"metric": "t-attn", "cache_loc": [1]}, "mixes 'metric' with 'cache_loc'"),
        ({"metric": "t_attn"}, "metric 't_attn'.*'t-attn'"),
        ({"metric": ["t-attn"]}, "metric"),
        ({"cache_res": "t_attn"}, "cache_res 't_attn'.*'t-attn'"),
        ({"metric_blocks": []}, r"metric_blocks.*\[0\]"),
        ({"metric_blocks": 13}, "metric_blocks.*got 13"),
        ({"metric_blocks": [-1]}, "metric_blocks.*>= 0"),
        ({"metric_blocks": "13"}, "metric_blocks"),
        ({"cache_loc": [1.5]}, "cache_loc"),
        ({"do_cache": "yes"}, "do_cache must be True or False"),
        ({"apply_moreg": 1}, "apply_moreg must be True or False"),
        ({"do_cache": False, "moreg_hyp": [0.385, 8]}, "moreg_hyp"),
        ({"moreg_hyp": [0.385, 0, 1]}, "moreg_hyp must be a finite number above 0, got 0"),
        ({"mograd_mul": -1}, "mograd_mul"),
        ({"moreg_strides": [0]}, "moreg_strides"),
        ({"moreg_steps": [0, 90]}, "moreg_steps"),
        ({"num_sampling_steps": 0}, "num_sampling_steps"),
        ({"codebook": "slow3"}, "'slow30'"),
        ({"moreg": 3}, "moreg must be"),
        ({"moreg": {"stride": [1]}}, "unknown moreg option 'stride'.*'strides'"),
        ({"moreg": {"scale": "0.385"}}, "moreg scale"),
        ({"moreg": {"power": float("nan")}}, "moreg power"),
        ({"moreg": {"strides": 1}}, "moreg strides"),
        ({"moreg": {"window": (90, 10)}}, "moreg window"),
        ({"moreg": {"window": (0, 10)}}, "counted from 1"),
        ({"moreg": {"window": (0.1, 1.1)}}, "fractions"),
        ({"moreg": {"window": (0.1, 0.5, 0.9)}}, "moreg window"),
        ([("metric", "t-attn")], "must be a mapping"),
    ],
)
def test_a_wrong_option_is_named_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=words) as caught:
        AdaCacheConfig.from_dict(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("window", "num_steps", "steps"),
    [
        ((0.1, 0.9), 100, (10, 90)),
        ((0.1, 0.9), 30, (3, 27)),
        ((0.1, 0.9), 2, (1, 2)),
        ((0.1, 0.9), 1, (1, 1)),
        ((0.0, 1.0), 7, (1, 7)),
        ((0, 0.5), 8, (1, 4)),
        ((4, 26), 30, (4, 26)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_a_window_is_resolved_to_1_based_steps(window, num_steps, steps):
    assert MoRegConfig(window=window).resolve_window(num_steps) == steps


def test_a_window_of_step_numbers_must_lie_within_the_run():
    config = AdaCacheConfig(moreg={"window": (10, 90)})
    config.validate(num_steps=100)
    with pytest.raises(ValueError, match=r"\(10, 90\) reaches beyond the 30 sampling steps"):
        config.validate(num_steps=30)
    with pytest.raises(ValueError, match="beyond the 30"):
        config.make_policy(30)


def test_metric_blocks_must_exist_in_the_model():
    config = AdaCacheConfig(metric_blocks=(1, 13))
    config.validate(num_steps=100, num_blocks=14)
    with pytest.raises(ValueError, match=r"valid indices are 0\.\.5"):
        config.validate(num_steps=100, num_blocks=6)


def test_a_codebook_for_another_number_of_steps_is_pointed_out():
    assert AdaCacheConfig("fast30").doubt(30) is None
    assert AdaCacheConfig(Codebook((0.1,), (2, 1))).doubt(50) is None
    assert "tuned for 30 sampling steps, but this run has 50" in AdaCacheConfig("fast30").doubt(50)


def test_configs_are_read_without_torch():
    code = (
        "import sys; from adacache import AdaCacheConfig, Codebook, Trace; import adacache.trace_plot; "
        "AdaCacheConfig.from_dict({'do_cache': True}).make_policy(100); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
        for seen, measured, entry in zip(policy.reports, measurements, entries, strict=True):
            assert (measured.site.stream == "temporal", measured.site.block) == (entry["temporal"], entry["blk_id"])
            assert seen.distance == pytest.approx(entry["avg"], rel=1e-6)
            # The reference subtracts nearly equal motion scores in float32, hence the wider bounds.
            score, gradient = (seen.motion_score, seen.motion_gradient) if case["config"]["apply_moreg"] else (1, 0)
            assert score == pytest.approx(entry.get("moreg_pow", 1), rel=1e-6)
            assert gradient == pytest.approx(entry.get("mograd", 0), rel=1e-6, abs=1e-5 * max(1, score))
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
    assert [seen.distance for seen in subject.reports] == [0.5, 0.25]
    assert [seen.rate for seen in subject.reports] == [2, 5]
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
    subject.observe(2, [])  # another model took over
    assert subject.observe(3, [Measurement(SITE, 0.1, 0.25)]).motion_gradient == 0.25 - 1


def test_every_block_has_its_own_previous_motion():
    moreg = {"scale": 1, "power": 1, "gradient_weight": 1, "window": (1, 20)}
    subject = AdaCacheConfig(Codebook((), (1,)), "ca-mlp", (0,), moreg).make_policy(20)
    spatial, temporal = (group[-1] for group in subject.observed_sites)
    subject.observe(0, [])
    subject.observe(1, [Measurement(spatial, 0.1, 0.5), Measurement(temporal, 0.1, 0.25)])
    subject.observe(2, [Measurement(spatial, 0.1, 0.5), Measurement(temporal, 0.1, 0.75)])
    assert [seen.motion_gradient for seen in subject.reports] == [0, 0.5]


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
