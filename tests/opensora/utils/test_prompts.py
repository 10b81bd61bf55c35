"""Prompt syntax against the reference's results; where it asserts or loses text, a clear error."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from opensora.models.text_encoder.caption_cleaning import text_preprocessing
from opensora.utils.prompts import (
    append_score_to_prompts,
    dframe_to_frame,
    extract_json_from_prompts,
    extract_prompts_loop,
    get_save_path_name,
    load_prompts,
    merge_prompt,
    split_prompt,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "tables"
REFERENCE = json.loads((GOLDEN / "prompts.json").read_text())


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
    ],
)
def test_extract_json_says_what_is_wrong(prompt, message):
    with pytest.raises(ValueError, match=message):
        extract_json_from_prompts([prompt], [""], [""])


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


def test_load_prompts_skips_blank_lines(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff a cat \r\n\r\n   \nein Vögelchen".encode())
    assert load_prompts(path) == ["a cat", "ein Vögelchen"]
    assert load_prompts(str(path)) == ["a cat", "ein Vögelchen"]


def test_load_prompts_refuses_what_holds_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file at '.*none\.txt'"):
        load_prompts(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="no prompt file at"):
        load_prompts(tmp_path)
    path = tmp_path / "empty.txt"
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        load_prompts(path)
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        load_prompts(path)


def test_import_is_light():
    code = "import sys, opensora.utils.prompts; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
