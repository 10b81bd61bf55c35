"""A setting does what it promises, or is refused; none is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from adacache.policies.adacache import AdaCacheConfig
from adacache.policies.multistep import MultistepConfig
from opensora.config.loading import load_config
from support import small_model

ROOT = Path(__file__).resolve().parents[3]
MINI = ROOT / small_model.SAMPLE
LARGE = ROOT / "configs/sample_480p.py"
OFFICIAL = {"model.do_cache": True, "model.cache_res": "t-attn", "model.codebook": {0.03: 12, 1.0: 3}}


@pytest.mark.parametrize(
    ("path", "flags", "options", "policy"),
    [
        (LARGE, {"draft": 4}, {}, AdaCacheConfig),
        (LARGE, {"final": ["1024"]}, {}, AdaCacheConfig),
        (LARGE, {}, OFFICIAL, AdaCacheConfig),
        (ROOT / small_model.CALIBRATED, {}, {}, MultistepConfig),
        (ROOT / small_model.ADACACHE, {}, {}, AdaCacheConfig),
    ],
    ids=["draft", "final", "official", "calibrated", "own"],
)
def test_low_memory_moves_every_cache(path, flags, options, policy):
    cache = load_config(path, {"low_memory": True, **flags}, options).cache
    assert (type(cache), cache.cache_device) == (policy, "cpu")
    assert load_config(path, flags, options).cache.cache_device == "model"


def test_low_memory_leaves_a_cache_where_the_command_line_puts_it():
    options = {"cache.cache_device": "model"}
    for flags in ({}, {"draft": 4}):
        config = load_config(ROOT / small_model.ADACACHE, {"low_memory": True, **flags}, options)
        assert config.cache.cache_device == "model"
    assert load_config(MINI, {"low_memory": True}).cache is None
