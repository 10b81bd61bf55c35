import json
import logging
import subprocess
import sys

import pytest

from adacache import AdaCacheConfig, BridgeConfig, Codebook, MoRegConfig

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
    assert official.moreg == MoRegConfig(window=(10, 90))
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
        assert (config.reuse_dict()["cache_device"], config.reuse_dict()["cache_dtype"]) == ("cpu", dtype)
        assert AdaCacheConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_device": "gpu"}, "cache_device 'gpu' is unknown, .*valid: model, cpu"),
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


def test_a_codebook_for_another_number_of_steps_is_pointed_out(caplog):
    with caplog.at_level(logging.WARNING):
        AdaCacheConfig("fast30").validate(30)
        AdaCacheConfig(Codebook((0.1,), (2, 1))).validate(50)
        assert not caplog.records
        AdaCacheConfig("fast30").validate(50)
    assert "tuned for 30 sampling steps, this run has 50" in caplog.text


def test_configs_are_read_without_torch():
    code = (
        "import sys; from adacache import AdaCacheConfig, Codebook, Trace; import adacache.trace_plot; "
        "AdaCacheConfig.from_dict({'do_cache': True}).make_policy(100); "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
