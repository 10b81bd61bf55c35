"""Prompt syntax against the reference's results; where it asserts or loses text, a clear error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.syntax import merge_prompt, sample_stem, split_prompt, split_settings, with_scores

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
REFERENCE = json.loads((GOLDEN / "prompts.json").read_text())
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)

syntax = st.text() | st.text('|0123 {}":,ab')  # any text, and what looks like markers and settings


@pytest.mark.parametrize("row", REFERENCE["extract_json_from_prompts"])
def test_settings(row):
    for i, prompt in enumerate(row["prompts"]):
        if isinstance(row["result"], list):
            text, settings = split_settings(prompt)
            given = {"reference_path": row["reference"][i], "mask_strategy": row["mask_strategy"][i]} | settings
            assert [text, given["reference_path"], given["mask_strategy"]] == [column[i] for column in row["result"]]
        else:  # the reference raises AssertionError or JSONDecodeError
            with pytest.raises(ValueError, match="prompt") as error:
                split_settings(prompt)
            assert prompt in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ('x {"mask_strategy": 0}', "setting 'mask_strategy' .* must be text in quotes, got 0"),
        ('x {"foo": "1"}', "unknown setting 'foo' .* use reference_path or mask_strategy"),
        ('x {"mask_strategy": "0"} y', "not one JSON object"),
        ("a {red} cat", "not one JSON object"),
        ('x {"mask_strategy": "0", "mask_strategy": "1"}', "key 'mask_strategy' is given twice"),
        ('x {"mask_strategy": ' + "[" * 100_000, "nested too deeply"),
        ('x {"mask_strategy": ' + "1" * 5000 + "}", "a number of 5000 digits is too long"),
        ('x {"mask_strategy": NaN}', "NaN is not a number"),
        ('x {"reference_path": "\\ud800.png"}', "setting 'reference_path' .* has a character that is not text"),
    ],
)
def test_settings_that_cannot_be_read_are_named(prompt, message):
    with pytest.raises(ValueError, match=message) as error:
        split_settings(prompt)
    assert len(str(error.value)) < 500  # however long the prompt


@pytest.mark.parametrize("row", REFERENCE["split_prompt"])
def test_split_prompt(row):
    assert [*split_prompt(row["text"])] == row["result"]


def test_split_prompt_keeps_other_pipes():  # the reference raises
    assert split_prompt("|0| a | b |12| c|d") == (["a | b", "c|d"], [0, 12])


@pytest.mark.parametrize("prompt", ["|0|a|2|b|1|c", "|0|a|0|b"])
def test_loops_must_ascend(prompt):
    with pytest.raises(ValueError, match="must ascend"):
        split_prompt(prompt)


@pytest.mark.parametrize("row", REFERENCE["merge_prompt"])
def test_merge_prompt(row):
    assert merge_prompt(row["text_list"], row["loop_idx_list"]) == row["result"]


@pytest.mark.parametrize("texts, loops", [(["a", "b"], None), ([], None), (["a"], [0, 1]), (["a", "b"], [0])])
def test_merge_prompt_loses_no_text(texts, loops):  # the reference drops or overruns
    with pytest.raises(ValueError, match=f"got {len(texts)} prompt texts"):
        merge_prompt(texts, loops)


def test_merge_prompt_is_read_back():  # the reference makes a marker of the end of a text and the next "|"
    assert merge_prompt(["a|1", "b"], [0, 2]) == "|0|a|1 |2|b"
    for texts, loops, message in [
        (["a", "b"], [1, 2], "must start at loop 0"),
        (["a", "b"], [0, 0], "must ascend"),
        (["a |1| b"], [0], "cannot have .* markers"),
        (["|0|a"], None, "has .* markers"),
    ]:
        with pytest.raises(ValueError, match=message):
            merge_prompt(texts, loops)


def test_only_short_ascii_numbers_are_markers():
    assert split_prompt("|0|a|٣|b") == (["a|٣|b"], [0])
    assert split_prompt(f"|0|a|{'9' * 5000}|b")[1] == [0]


@pytest.mark.parametrize("row", REFERENCE["append_score_to_prompts"])
def test_scores(row):
    scores = row["aes"], row["flow"], row["camera_motion"]
    assert [with_scores(prompt, *scores) for prompt in row["prompts"]] == row["result"]


@pytest.mark.parametrize("scores", [{"aes": float("nan")}, {"flow": float("inf")}])
def test_scores_are_finite(scores):
    with pytest.raises(ValueError, match=f"{next(iter(scores))} must be a finite number"):
        with_scores("x", **scores)


@pytest.mark.parametrize("row", REFERENCE["pipeline"])
def test_helpers_in_the_order_of_the_pipeline(row):
    prompt, settings = split_settings(row["prompt"])
    assert [settings.get("mask_strategy", "")] == row["mask_strategy"]
    texts, loops = split_prompt(prompt)
    texts = [with_scores(text, row["aes"], row["flow"], row["camera_motion"]) for text in texts]
    assert merge_prompt([text_preprocessing(text) for text in texts], loops) == row["merged"]


@pytest.mark.parametrize("row", REFERENCE["get_save_path_name"])
def test_file_names(row):
    """The reference also puts the folder in front, and the number of several samples of a prompt behind."""
    asked = row["kwargs"]
    stem = sample_stem(
        asked.get("sample_name"), asked["sample_idx"], asked["prompt"] if asked.get("prompt_as_path") else None
    )
    assert f"{asked['save_dir'].removesuffix('/')}/{stem}" == row["result"].removesuffix(f"-{asked.get('k')}")


def test_a_file_name_of_a_prompt_leads_nowhere_else_and_is_short():
    assert sample_stem(None, 0, "/etc/../x\ny") == "_etc_.._x_y"
    assert sample_stem(None, 0, "c" * 300) == "c" * 50
    assert sample_stem("n" * 300, 7) == "n" * 195 + "_0007"


@SETTINGS
@given(syntax.map(lambda text: f"|0|{text}") | syntax)
def test_any_prompt_is_split_and_merged_again_or_refused(prompt):
    try:
        texts, loops = split_prompt(prompt)
    except ValueError as error:
        assert "must ascend" in str(error)
        return
    assert split_prompt(merge_prompt(texts, loops)) == (texts, loops)


@SETTINGS
@given(
    st.lists(syntax, min_size=1, max_size=3), st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=3) | st.none()
)
def test_what_merges_is_split_into_the_same_texts(texts, loops):
    try:
        merged = merge_prompt(texts, loops)
    except ValueError:
        return
    stripped = texts if loops is None else [text.strip() for text in texts]
    assert split_prompt(merged) == (stripped, loops)


@SETTINGS
@given(syntax, syntax, syntax)
def test_any_settings_are_read(text, path, strategy):
    text = text.replace("{", "")
    prompt = text + json.dumps({"reference_path": path, "mask_strategy": strategy})
    if "\0" in path + strategy:
        with pytest.raises(ValueError, match="has a character that is not text"):
            split_settings(prompt)
    else:
        assert split_settings(prompt) == (text, {"reference_path": path, "mask_strategy": strategy})
    assert split_settings(text) == (text, {})


@SETTINGS
@given(syntax)
def test_any_prompt_has_settings_or_is_refused(prompt):
    try:
        text, _ = split_settings(prompt)
    except ValueError as error:
        assert "{" in prompt and str(error).isascii() or "prompt" in str(error)
    else:
        assert prompt.startswith(text) and "{" not in text


finite = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@SETTINGS
@given(syntax, finite, finite, st.none() | syntax)
def test_scores_are_appended_once(prompt, aes, flow, motion):
    scored = with_scores(prompt, aes, flow, motion)
    assert scored.startswith(prompt)
    if motion is None or "score:" not in motion:
        assert with_scores(scored, aes, flow, motion) == scored


def test_import_is_light():
    code = "import sys, opensora.prompts.syntax; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
