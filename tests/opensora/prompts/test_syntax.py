"""Prompt syntax against the reference's results; where it asserts or loses text, a clear error."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.prompts.syntax import (
    append_score_to_prompts,
    dframe_to_frame,
    extract_json_from_prompts,
    extract_prompts_loop,
    get_save_path_name,
    merge_prompt,
    split_prompt,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
REFERENCE = json.loads((GOLDEN / "prompts.json").read_text())
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)

syntax = st.text() | st.text('|0123 {}":,ab')  # any text, and what looks like markers and settings


@pytest.mark.parametrize("row", REFERENCE["extract_json_from_prompts"])
def test_extract_json(row):
    arguments = [row["prompts"], row["reference"], row["mask_strategy"]]
    before = copy.deepcopy(arguments)
    if isinstance(row["result"], list):
        assert [*extract_json_from_prompts(*arguments)] == row["result"]
    else:  # the reference raises AssertionError or JSONDecodeError
        with pytest.raises(ValueError, match="prompt") as error:
            extract_json_from_prompts(*arguments)
        assert row["prompts"][0] in str(error.value) and "\n" not in str(error.value)
    assert arguments == before  # the reference overwrites its lists


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
    ],
)
def test_extract_json_says_what_is_wrong(prompt, message):
    with pytest.raises(ValueError, match=message) as error:
        extract_json_from_prompts([prompt], [""], [""])
    assert len(str(error.value)) < 500  # however long the prompt


def test_extract_json_needs_lists_of_one_length():
    with pytest.raises(ValueError, match="got 2 prompts, 1 references and 2 mask strategies"):
        extract_json_from_prompts(["a", "b"], [""], ["", ""])


@pytest.mark.parametrize("row", REFERENCE["split_prompt"])
def test_split_prompt(row):
    assert [*split_prompt(row["text"])] == row["result"]


def test_split_prompt_keeps_other_pipes():  # the reference raises
    assert split_prompt("|0| a | b |12| c|d") == (["a | b", "c|d"], [0, 12])


@pytest.mark.parametrize("prompt", ["|0|a|2|b|1|c", "|0|a|0|b"])
def test_loops_must_ascend(prompt):
    with pytest.raises(ValueError, match="must ascend"):
        split_prompt(prompt)
    with pytest.raises(ValueError, match="must ascend"):
        extract_prompts_loop([prompt], 0)


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
def test_append_score(row):
    row = dict(row)
    expected = row.pop("result")
    before = list(row["prompts"])
    assert append_score_to_prompts(**row) == expected
    assert row["prompts"] == before


@pytest.mark.parametrize("row", REFERENCE["extract_prompts_loop"])
def test_extract_prompts_loop(row):
    assert extract_prompts_loop([row["prompt"]], row["loop"]) == row["result"]


def test_extract_prompts_loop_of_a_batch():
    assert extract_prompts_loop(["|0|a | x|1|b", "plain"], 0) == ["a | x", "plain"]
    assert extract_prompts_loop(["|0|a | x|1|b", "plain"], 1) == ["b", "plain"]


def test_loops_count_from_0():
    with pytest.raises(ValueError, match="loops are counted from 0, got -1"):
        extract_prompts_loop(["|0|a"], -1)


@pytest.mark.parametrize("scores", [{"aes": float("nan")}, {"flow": float("inf")}])
def test_scores_are_finite(scores):
    with pytest.raises(ValueError, match=f"{next(iter(scores))} must be a finite number"):
        append_score_to_prompts(["x"], **scores)


@pytest.mark.parametrize("row", REFERENCE["pipeline"])
def test_helpers_in_the_order_of_the_pipeline(row):
    prompts, _, strategies = extract_json_from_prompts([row["prompt"]], [""], [""])
    assert strategies == row["mask_strategy"]
    texts, loops = split_prompt(prompts[0])
    texts = append_score_to_prompts(texts, row["aes"], row["flow"], row["camera_motion"])
    merged = merge_prompt([text_preprocessing(text) for text in texts], loops)
    assert merged == row["merged"]
    per_loop = [extract_prompts_loop([merged], loop)[0] for loop in range(len(row["per_loop"]))]
    assert per_loop == row["per_loop"]


@pytest.mark.parametrize("row", REFERENCE["get_save_path_name"])
def test_save_path(row):
    assert get_save_path_name(**row["kwargs"]) == row["result"]


def test_save_path_of_a_prompt_stays_in_the_folder_and_short():
    assert get_save_path_name("out", prompt="/etc/../x\ny", prompt_as_path=True) == "out/_etc_.._x_y"
    assert get_save_path_name("out", prompt="c" * 300, prompt_as_path=True) == "out/" + "c" * 50
    assert get_save_path_name("out", "n" * 300, 7) == "out/" + "n" * 195 + "_0007"


@pytest.mark.parametrize(
    "kwargs, missing",
    [
        ({}, "sample_idx"),
        ({"prompt_as_path": True, "sample_idx": 1}, "prompt"),
        ({"sample_idx": 1, "num_sample": 2}, "k,"),
    ],
)
def test_save_path_names_what_is_missing(kwargs, missing):
    with pytest.raises(ValueError, match=f"needs {missing}"):
        get_save_path_name("out", **kwargs)


@pytest.mark.parametrize("num, expected", REFERENCE["dframe_to_frame"])
def test_dframe_to_frame(num, expected):
    if isinstance(expected, int):
        assert dframe_to_frame(num) == expected
    else:  # the reference raises AssertionError
        with pytest.raises(ValueError, match=f"must be a multiple of 5, got {num}"):
            dframe_to_frame(num)


@SETTINGS
@given(syntax.map(lambda text: f"|0|{text}") | syntax)
def test_any_prompt_is_split_and_merged_again_or_refused(prompt):
    try:
        texts, loops = split_prompt(prompt)
    except ValueError as error:
        assert "must ascend" in str(error)
        with pytest.raises(ValueError, match="must ascend"):
            extract_prompts_loop([prompt], 0)
        return
    assert split_prompt(merge_prompt(texts, loops)) == (texts, loops)
    for i, loop in enumerate(loops or [0]):
        assert [text.strip() for text in extract_prompts_loop([prompt], loop)] == [texts[i].strip()]
    assert extract_prompts_loop([prompt], (loops or [0])[-1] + 1) == extract_prompts_loop([prompt], (loops or [0])[-1])


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
    assert extract_json_from_prompts([prompt], ["r"], ["m"]) == ([text], [path], [strategy])
    assert extract_json_from_prompts([text], ["r"], ["m"]) == ([text], ["r"], ["m"])


@SETTINGS
@given(syntax)
def test_any_prompt_has_settings_or_is_refused(prompt):
    try:
        [text], _, _ = extract_json_from_prompts([prompt], [""], [""])
    except ValueError as error:
        assert "{" in prompt and str(error).isascii() or "prompt" in str(error)
    else:
        assert prompt.startswith(text) and "{" not in text


finite = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@SETTINGS
@given(syntax, finite, finite, st.none() | syntax)
def test_scores_are_appended_once(prompt, aes, flow, motion):
    [scored] = append_score_to_prompts([prompt], aes, flow, motion)
    assert scored.startswith(prompt)
    if motion is None or "score:" not in motion:
        assert append_score_to_prompts([scored], aes, flow, motion) == [scored]


def test_import_is_light():
    code = "import sys, opensora.prompts.syntax; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
