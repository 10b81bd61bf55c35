"""The content study's arithmetic, on numbers worked out by hand."""

from __future__ import annotations

import pytest

from bench.content import (
    CLASSES,
    at_equal_compute,
    average_schedule,
    captions_by_class,
    content_class,
    fixed_list,
    spread_shares,
    summarize,
)
from mini.world.captions import parse_caption


def test_every_class_gets_its_own_captions():
    captions = captions_by_class(3, seed=0)
    assert set(captions) == set(CLASSES)
    for name, texts in captions.items():
        assert len(set(texts)) == 3
        for text in texts:
            assert content_class(parse_caption(text)) == name
            assert parse_caption(text).held_out


def test_training_captions_come_from_the_other_side_of_the_split():
    assert not any(parse_caption(c).held_out for captions in captions_by_class(2, 0, False).values() for c in captions)


def test_the_average_schedule_is_the_mean_place_of_each_computed_step():
    assert average_schedule([[0, 2, 8], [0, 4, 8]], 3) == (0, 3, 8)
    # The first is stretched to 0, 2, 4, 6, 8 and so the same as the second.
    assert average_schedule([[0, 4, 8], [0, 2, 4, 6, 8]], 5) == (0, 2, 4, 6, 8)


def test_a_fixed_list_keeps_to_its_length_and_ends_with_the_last_two_steps():
    assert fixed_list([[0, 2, 4]], 9, 5).computed_steps == (0, 2, 4, 7, 8)
    assert len(fixed_list([range(9)], 9, 6).computed_steps) == 6


def test_equal_compute_lies_on_the_line_through_both_lists():
    row = {"computed_short": 10, "computed_long": 12, "psnr_short": 30.0, "psnr_long": 34.0}
    assert at_equal_compute(row, 10) == 30
    assert at_equal_compute(row, 11.5) == pytest.approx(33)
    assert at_equal_compute({**row, "computed_long": 10}, 10) == 30


def test_asking_for_more_captions_than_there_are_ends():
    with pytest.raises(ValueError, match="found only 1[0-9] captions of the class 'spinning', not 40"):
        captions_by_class(40, seed=0)


def test_classes_that_differ_only_between_each_other_have_all_of_the_spread():
    row = {"caption": "", "seed": 0}
    apart = [{**row, "class": name, "distances": [value, value]} for name, value in [("a", 1), ("a", 1), ("b", 2)]]
    assert spread_shares(apart) == pytest.approx(1)
    mixed = [{**row, "class": name, "distances": [value]} for name in "ab" for value in (1, 2)]
    assert spread_shares(mixed) == pytest.approx(0, abs=1e-9)
    assert summarize(mixed) == {"a": {"distances": [1.5]}, "b": {"distances": [1.5]}}
