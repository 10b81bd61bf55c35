"""Policies by name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adacache import AdaCacheConfig
from adacache.policies.base import PolicyConfig
from adacache.policies.fixed import FixedIntervalConfig
from adacache.policies.registry import POLICIES, config_class, config_from_dict, config_to_dict
from adacache.policies.static import StaticScheduleConfig

# Of each policy what it needs, and an option of its own that is not at its default.
OPTIONS = {
    "adacache": {"codebook": "fast30"},
    "static": {"computed_steps": [0, 1, 4]},
    "multistep": {
        "computed_steps": [0, 2],
        "coefficients": [[[1.0], [1.0]], [[1.5, -0.5], [1.0]]],
        "num_sampling_steps": 4,
    },
    "fixed": {"interval": 3},
    "magcache": {"ratios": [0.9, 1.0, 1.1], "max_skips": 2},
    "taylorseer": {"interval": 4, "order": 2},
    "teacache": {"coefficients": [2.0, 0.5], "threshold": 0.2},
    "fbcache": {"threshold": 0.2},
    "easycache": {"threshold": 0.2},
    "seacache": {"max_skips": 4},
    "pab": {"spatial": 3},
}


def test_every_policy_has_its_name():
    assert list(POLICIES) == list(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_policy_is_read_by_its_name_and_written_with_it(name):
    config = config_from_dict({"policy": name, "cache_device": "cpu", **OPTIONS[name]})
    assert type(config) is config_class(name)
    assert isinstance(config, PolicyConfig)
    assert config.cache_device == "cpu"
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert plain["policy"] == name
    assert config_from_dict(plain) == config


@pytest.mark.parametrize("name", OPTIONS)
def test_no_policy_takes_an_unknown_option_or_a_run_without_steps(name):
    with pytest.raises(ValueError, match=f"unknown {config_class(name).label} option 'no_such'"):
        config_from_dict({"policy": name, **OPTIONS[name], "no_such": 1})
    with pytest.raises(ValueError, match="num_steps must be a whole number >= 1, got 0"):
        config_from_dict({"policy": name, **OPTIONS[name]}).make_policy(0)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("easycache", {"threshold": 0.025, "warmup": 5}),
        ("fbcache", {"threshold": 0.05}),
        ("seacache", {"threshold": 0.25, "max_skips": 2}),
        ("taylorseer", {"interval": 5, "warmup": 3, "order": 1}),
        ("pab", {"window": (450, 930), "mlp_times": (864, 788, 676), "mlp_hold": 2, "mlp_blocks": (0, 1, 2, 3, 4)}),
        ("pab", {"spatial": 2, "temporal": 4, "cross": 6}),
    ],
)
def test_defaults_are_the_published_options(name, published):
    config = config_from_dict({"policy": name})
    assert {option: getattr(config, option) for option in published} == published


def test_without_a_name_the_options_tell_the_policy():
    assert config_from_dict({}) == AdaCacheConfig()
    assert config_from_dict({"codebook": "slow30"}) == AdaCacheConfig("slow30")
    assert config_from_dict({"computed_steps": [0, 2]}) == StaticScheduleConfig((0, 2))


def test_official_options_stay_what_they_are():
    assert config_from_dict({"do_cache": False}) is None
    assert config_from_dict({"policy": "adacache", "do_cache": True}) == AdaCacheConfig(schedule="batch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "magcash"}, r"policy 'magcash' is unknown, did you mean 'magcache'\? \(valid: adacache, static, "),
        ({"policy": None}, "policy None is unknown"),
        ({"policy": ["fixed"]}, r"policy \['fixed'\] is unknown"),
        ({"policy": "fixed", "intervall": 2}, r"unknown fixed interval option 'intervall', did you mean 'interval'\?"),
        ({"policy": "fixed", "codebook": "fast30"}, "unknown fixed interval option 'codebook'"),
        ({"policy": "magcache"}, "policy 'magcache' needs ratios$"),
        ({"policy": "magcache", "ratio": [1]}, r"unknown MagCache option 'ratio', did you mean 'ratios'\?"),
        ({"policy": "static"}, "policy 'static' needs computed_steps$"),
        ({"policy": "static", "computed_steps": [0], "expected_change": [1]}, "unknown static schedule option"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        config_from_dict(options)
    assert "\n" not in str(caught.value)


def test_a_policy_of_ones_own_has_no_name():
    class Own(FixedIntervalConfig):
        pass

    with pytest.raises(ValueError, match="Own is not one of the policies adacache, static, "):
        config_to_dict(Own())


def test_a_policy_is_imported_when_it_is_asked_for_and_needs_no_torch():
    code = (
        "import sys; from adacache.policies.registry import POLICIES, config_class, config_from_dict; "
        "assert 'adacache.policies.taylorseer' not in sys.modules; "
        "config_from_dict(dict(policy='taylorseer')); "
        "assert 'adacache.policies.pab' not in sys.modules; "
        "[config_class(name) for name in POLICIES]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_misspelled_policy_is_not_taken_for_an_option_of_the_default_one():
    with pytest.raises(ValueError, match=r"^unknown option 'polcy', did you mean 'policy'\?$"):
        config_from_dict({"polcy": "teacache", "threshold": 0.1})
