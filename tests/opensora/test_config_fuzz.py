"""Whatever a config holds, reading it gives a config or one sentence, and never a traceback."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adacache.policies.registry import POLICIES, config_class
from opensora.config.entries import find_config, read_config_file
from opensora.config.loading import config_from_dict
from opensora.config.schema import OFFICIAL_CACHE_KEYS, SECTIONS, SampleConfig, types_of
from opensora.errors import ConfigError
from support import small_model

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)

SECTION_KEYS = {name: {key for cls in SECTIONS[name] for key in cls.__dataclass_fields__} for name in SECTIONS}
TOP_LEVEL = {*SampleConfig.__pydantic_fields__, "resolution", "aspect_ratio", "image_size"}
POLICY_KEYS = {name: sorted(config_class(name).__dataclass_fields__) for name in POLICIES}
CACHE_KEYS = sorted({"policy", "file"}.union(*POLICY_KEYS.values()))
PLACES = (
    [(key,) for key in sorted(TOP_LEVEL)]
    + [(section, key) for section, keys in SECTION_KEYS.items() for key in sorted(keys)]
    + [("model", key) for key in sorted(OFFICIAL_CACHE_KEYS)]
    + [("cache", key) for key in CACHE_KEYS]
)

# Paths that lead nowhere, words of the configs, and numbers that are none or too large for others.
WORDS = ["", "..", "\0", "\ud800", "~nobody-of-this-name/x", "x" * 300, "2s", "720p", "9:16", "fast30", "adacache"]
WORDS += [name for classes in SECTIONS.values() for cls in classes for name in types_of(cls)]
WORDS += ["static", "pab", "teacache", "fbcache", "t-attn", "1024", "2:1024", "None", "{", "|0|a|0|b", "0,0,0,0,1,0"]
texts = st.sampled_from(WORDS) | st.text(max_size=5)
numbers = st.integers(-100, 100) | st.floats() | st.sampled_from([10**400, -(10**400), 2**31])
scalars = st.none() | st.booleans() | numbers | texts | st.binary(max_size=2)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(texts | st.integers(-3, 30) | st.floats(0, 1), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def mini() -> dict[str, Any]:
    """The entries of the mini model's config with a cache."""
    return read_config_file(find_config(small_model.ADACACHE)).to_dict()


@pytest.fixture(scope="module", params=["mini/sample_adacache", "latte/sample", "open_sora_plan/sample"])
def entries_of_a_model(request) -> dict[str, Any]:
    """The same of every kind of model."""
    return read_config_file(find_config(f"configs/{request.param}.py")).to_dict()


def read(entries: dict[str, Any]) -> None:
    """Read the entries, which may be refused in one sentence and must not be changed."""
    before = copy.deepcopy(entries)
    try:
        config = config_from_dict(entries)
    except ConfigError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert isinstance(config, SampleConfig)
    assert repr(entries) == repr(before)  # NaN is not equal to itself


def put(entries: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    """Set an entry; a section that is none any more is replaced."""
    *sections, key = place
    for section in sections:
        if not isinstance(entries.get(section), dict):
            entries[section] = {}
        entries = entries[section]
    entries[key] = value


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=2))
def test_any_value_of_any_entry(entries_of_a_model, changes):
    entries = copy.deepcopy(entries_of_a_model)
    for place, value in changes:
        put(entries, place, value)
    read(entries)


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_every_entry_with_what_no_entry_expects(entries_of_a_model, place):
    for value in (10**400, -1, float("nan"), "\0", "\ud800", "~nobody-of-this-name/x", "x" * 300, [[]], {0.5: {}}, b""):
        entries = copy.deepcopy(entries_of_a_model)
        put(entries, place, value)
        read(entries)


@SETTINGS
@given(st.dictionaries(st.sampled_from(CACHE_KEYS) | texts, values, max_size=5))
def test_any_cache(mini, cache):
    read({**mini, "cache": cache})


@SETTINGS
@given(st.data(), st.sampled_from(sorted(POLICY_KEYS)))
def test_any_options_of_a_policy(mini, data, policy):
    options = data.draw(st.dictionaries(st.sampled_from(POLICY_KEYS[policy]), values, max_size=5))
    read({**mini, "cache": {"policy": policy, **options}})


@SETTINGS
@given(st.dictionaries(st.sampled_from(sorted(OFFICIAL_CACHE_KEYS)), values, max_size=5), st.booleans())
def test_any_official_cache(mini, options, do_cache):
    read({**mini, "cache": None, "model": {**mini["model"], "do_cache": do_cache, **options}})


@SETTINGS
@given(st.dictionaries(st.sampled_from([*sorted(TOP_LEVEL), *SECTIONS]) | texts | st.integers(), values, max_size=6))
def test_any_dict(entries):
    read(entries)
