"""What the text encoder reads in each loop, against the reference's results."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.syntax import merge_prompt, prepare_captions

REFERENCE = json.loads((Path(__file__).parents[2] / "golden" / "tables" / "prompts.json").read_text())


@pytest.mark.parametrize("row", REFERENCE["pipeline"])
def test_captions_are_the_reference(row):
    scores = row["aes"], row["flow"], row["camera_motion"]
    assert prepare_captions(row["prompt"], *scores, len(row["per_loop"])) == row["per_loop"]


def test_every_segment_has_the_scores_and_loops_read_the_last_that_started():
    captions = prepare_captions("|0| A Day|2|Night, motion score: 3.", 6.5, 5, "pan left", 4)
    day = "a day aesthetic score: 6.5. motion score: 5.0. camera motion: pan left."
    assert captions[:2] == [day, day]
    night = "night, motion score: 3. aesthetic score: 6.5. camera motion: pan left."
    assert captions[2:] == [night, night]


def test_a_marker_that_cleaning_uncovers_is_text():
    bar = "%25EF%25BD%259C"  # a full-width "|", escaped twice
    assert prepare_captions(f"|0| a {bar}%2531{bar} b", None, None, None, 2) == ["a |1| b"] * 2


def test_a_prompt_of_which_nothing_is_left_is_reported(caplog):
    caplog.set_level(logging.WARNING)
    assert prepare_captions("一只猫 ", 6.5, None, None, 1) == ["aesthetic score: 6.5."]
    assert "nothing is left of '一只猫' after caption cleaning; the model reads English" in caplog.text
    caplog.clear()
    assert prepare_captions("", None, None, None, 1) == [""] and not caplog.text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("x", None, None, None, 0), "at least 1 loop, got 0"),
        (("x {", None, None, None, 1), "not one JSON object"),
        (("|0|a|0|b", None, None, None, 1), "must ascend"),
        (("x", float("nan"), None, None, 1), "aes must be a finite number"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        prepare_captions(*arguments)


words = st.text("abc .,-%&#;'\"<>", min_size=1).filter(lambda text: text.strip())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.integers(1, 4), words, max_size=3), words)
def test_each_loop_is_the_segment_by_itself(later, first):
    segments = {0: first, **dict(sorted(later.items()))}
    captions = prepare_captions(merge_prompt([*segments.values()], [*segments]), 6.0, None, None, 6)
    for loop, caption in enumerate(captions):
        text = segments[max(start for start in segments if start <= loop)]
        assert caption == text_preprocessing(f"{text.strip()} aesthetic score: 6.0.")
