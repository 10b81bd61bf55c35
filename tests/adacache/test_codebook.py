import json

import pytest

from adacache import PRESETS, Codebook

TABLE = Codebook(thresholds=(0.1, 0.2), rates=(6, 4, 1))


@pytest.mark.parametrize(
    ("distance", "rate"),
    [(0.0, 6), (0.0999, 6), (0.1, 4), (0.1999, 4), (0.2, 1), (7.0, 1), (float("inf"), 1), (float("nan"), 1)],
)
def test_the_first_threshold_strictly_above_the_distance_gives_the_rate(distance, rate):
    assert TABLE.rate(distance) == rate


def test_without_thresholds_the_interval_is_fixed():
    fixed = Codebook(thresholds=(), rates=(4,))
    assert [fixed.rate(distance) for distance in (0.0, 1.0, float("nan"))] == [4, 4, 4]


@pytest.mark.parametrize(
    "value",
    [
        TABLE,
        {"thresholds": [0.1, 0.2], "rates": [6, 4, 1]},
        {0.1: 6, 0.2: 4, 1.0: 1},
        {"0.1": 6, "0.2": 4, "1.00": 1},
        [[0.1, 6], [0.2, 4], [1.0, 1]],
        ((0.1, 6), (0.2, 4), (1, 1)),
        {0.1: 6, 0.2: 4, float("inf"): 1},
    ],
)
def test_every_form_a_config_may_hold_means_the_same(value):
    assert Codebook.from_value(value) == TABLE


def test_the_official_table_may_have_any_number_of_entries():
    assert Codebook.from_value({0.3: 2}) == Codebook((), (2,))
    ten = {threshold / 100: 11 - threshold for threshold in range(1, 11)}
    assert [Codebook.from_value(ten).rate(distance) for distance in (0.005, 0.055, 0.095, 0.5)] == [10, 5, 1, 1]


def test_presets_are_the_published_tables():
    assert Codebook.from_value("steps100") == Codebook.from_value(
        {0.03: 12, 0.05: 10, 0.07: 8, 0.09: 6, 0.11: 4, 1.00: 3}
    )
    assert Codebook.from_value("fast30") == Codebook.from_value({0.08: 6, 0.16: 5, 0.24: 4, 0.32: 3, 0.40: 2, 1.00: 1})
    assert Codebook.from_value("slow30") == Codebook.from_value({0.08: 3, 0.16: 2, 0.24: 1, 0.32: 1, 0.40: 1, 1.00: 1})
    assert [preset.num_sampling_steps for preset in PRESETS.values()] == [100, 30, 30]


def test_a_codebook_survives_json():
    for preset in PRESETS.values():
        again = Codebook.from_value(json.loads(json.dumps(preset.to_dict())))
        assert again == preset
        assert again.num_sampling_steps == preset.num_sampling_steps


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("fast31", "did you mean 'fast30'"),
        ("zzz", "valid: steps100, fast30, slow30"),
        ({"thresholds": [0.1]}, "both thresholds and rates"),
        ({"thresholds": [0.1], "rates": [2, 1], "rate": [1]}, "unknown codebook key 'rate'.*'rates'"),
        ({"thresholds": [0.1], "rates": [2]}, "1 thresholds and 1 rates"),
        ({"thresholds": [0.2, 0.1], "rates": [3, 2, 1]}, "ascend"),
        ({"thresholds": [0.1, 0.1], "rates": [3, 2, 1]}, "ascend"),
        ({"thresholds": [0.0], "rates": [2, 1]}, "above 0"),
        ({"thresholds": [float("inf")], "rates": [2, 1]}, "finite"),
        ({"thresholds": "0.1", "rates": [2, 1]}, "thresholds must be a list"),
        ({"thresholds": [0.1], "rates": [2, 0]}, ">= 1"),
        ({"thresholds": [0.1], "rates": [2, 1.5]}, "whole numbers"),
        ({"thresholds": [0.1], "rates": [2, True]}, "whole numbers"),
        ({"thresholds": [0.1], "rates": [2, 1], "num_sampling_steps": 0}, "num_sampling_steps"),
        ({0.2: 3, 0.1: 1}, "ascend"),
        ({0.1: 3, 0.2: 2, 0.15: 1}, "ascend"),
        ({"a lot": 3}, "'a lot' is not a number"),
        ({}, "empty"),
        ([], "empty"),
        ([0.1, 0.2], "preset"),
        (None, "preset"),
        (3, "preset"),
    ],
)
def test_what_is_no_codebook_is_refused_in_one_sentence(value, words):
    with pytest.raises(ValueError, match=words) as caught:
        Codebook.from_value(value)
    assert "\n" not in str(caught.value)
