"""Prompt files: what counts as a prompt, what a prompt can override, and one sentence for each mistake."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opensora.config.schema import SampleConfig, SchedulerConfig
from opensora.errors import ConfigError
from opensora.prompts.files import LINE_KEYS, MAX_PROMPT, Prompt, read_prompt_file

SETTINGS = settings(max_examples=200, deadline=None, derandomize=True)


def write(tmp_path, content: str | bytes, name: str = "prompts.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text(tmp_path):
    path = write(
        tmp_path,
        "\ufeff# a comment\n a cat \r\n\r\n   \r  # another\n"
        'ein Vögelchen\u2028singt {"mask_strategy": "0"}\n\\# starts with a hash\n\\\\ backslashes',
    )
    assert read_prompt_file(path) == [
        Prompt(0, 2, "a cat", {}),
        Prompt(1, 6, 'ein Vögelchen\u2028singt {"mask_strategy": "0"}', {}),
        Prompt(2, 7, "# starts with a hash", {}),
        Prompt(3, 8, "\\\\ backslashes", {}),
    ]
    assert read_prompt_file(str(path)) == read_prompt_file(path)


LINES = '# a comment\n\n{"prompt": " a\\ncat ", "seed": 7, "steps": 50}\n"only text"\n{"name": "b", "prompt": "b"}'
ENTRIES = '\n[{"prompt": " a\\ncat ",\n "seed": 7, "steps": 50},\n "only text"\n, {"name": "b", "prompt": "b"}] \n'


@pytest.mark.parametrize(
    "name, content, lines",
    [("p.jsonl", LINES, [3, 4, 5]), ("p.NDJSON", LINES, [3, 4, 5]), ("p.json", ENTRIES, [None, None, None])],
)
def test_json(tmp_path, name, content, lines):
    assert read_prompt_file(write(tmp_path, content, name)) == [
        Prompt(0, lines[0], "a cat", {"seed": 7, "num_sampling_steps": 50}),
        Prompt(1, lines[1], "only text", {}),
        Prompt(2, lines[2], "b", {"name": "b"}),
    ]


TABLE = """\ufeffprompt, seed,steps,name,image_size,num_frames,aes\r
"a cat,\r
 ""big"" and black",7,50,tom,"[64, 32]",17,5.5\r
,,,,,\r
# a plain one\r
|0| a |1| b,,x,007,,2s,
"""


def test_a_table(tmp_path):
    overrides = {"seed": 7, "num_sampling_steps": 50, "name": "tom", "image_size": [64, 32], "num_frames": "17"}
    assert read_prompt_file(write(tmp_path, TABLE, "p.csv")) == [
        Prompt(0, 2, 'a cat,  "big" and black', {**overrides, "aes": 5.5}),
        Prompt(1, 5, "# a plain one", {}),
        Prompt(2, 6, "|0| a |1| b", {"num_sampling_steps": "x", "name": "007", "num_frames": "2s"}),
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "a red circle\na star",
            "line 1: the first line names no column 'prompt' but 'a red circle'; columns are named",
        ),
        ("", "line 1: the first line names no column 'prompt' but nothing"),
        ("prompt;seed\na;7", "names no column 'prompt' but 'prompt;seed'"),
        ("prompt\n", "holds no prompt"),
        ("prompt,sed\na,7", "line 2: unknown key 'sed'; did you mean 'seed'"),
        ("prompt,seed,seed\na,7,8", "line 1: a column is named twice"),
        ("prompt\na circle, moving", "line 2: 2 cells are more than the 1 columns; put a prompt that has a comma"),
        ("prompt,seed\na,1\n,7", "line 3: the prompt is empty"),
        ('prompt\n"a\nb', "line 2: not a row of a .csv file"),
        ("prompt,seed\na,1\n" + "b" * (MAX_PROMPT + 1), "line 3: .* too long"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_prompt_file(write(tmp_path, content, "p.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["tsv", "xlsx", "yaml", "md", "parquet", "CSV2"])
def test_other_endings_are_refused(tmp_path, suffix):
    with pytest.raises(ConfigError, match=f"has the ending .{suffix.lower()}, which is not one of .txt"):
        read_prompt_file(write(tmp_path, "prompt\ta\n", f"p.{suffix}"))


@pytest.mark.parametrize(
    "content",
    [
        "a cat\n# no\na dog\n",
        '{"prompt": "a cat"}\n"a dog"\n',
        '# of mine\n\n{"prompt": "a cat"}\n"a dog"\n',
        '[\n{"prompt": "a cat"},\n"a dog"\n]',
    ],
)
def test_a_pipe(content, monkeypatch):
    reading, writing = os.pipe()
    with open(writing, "w") as file:
        file.write(content)
    assert [line.text for line in read_prompt_file(f"/dev/fd/{reading}")] == ["a cat", "a dog"]
    os.close(reading)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert [line.text for line in read_prompt_file("-")] == ["a cat", "a dog"]


def test_a_prompt_of_a_pipe_may_begin_with_a_bracket():
    assert [line.text for line in read_prompt_file("-", "[close-up] a cat\n[1] a dog\n")] == [
        "[close-up] a cat",
        "[1] a dog",
    ]


def test_columns_without_a_name_are_left_out(tmp_path):
    [line] = read_prompt_file(write(tmp_path, "prompt,seed,,\na cat,7,,\n", "p.csv"))
    assert (line.text, line.overrides) == ("a cat", {"seed": 7})
    with pytest.raises(ConfigError, match="line 2: unknown key ''"):
        read_prompt_file(write(tmp_path, "prompt,seed,,\na cat,7,x,\n", "q.csv"))


def test_every_override(tmp_path):
    """Every key is an entry of the config, or of its scheduler, or one that the config resolves."""
    entries = {key: None for key in LINE_KEYS}
    [line] = read_prompt_file(write(tmp_path, json.dumps({"prompt": "x", **entries, "name": "x"}), "p.jsonl"))
    assert set(line.overrides) == LINE_KEYS
    resolved = {"name", "resolution", "aspect_ratio", "image_size"}
    assert LINE_KEYS - resolved <= {*SampleConfig.__dataclass_fields__, *SchedulerConfig.__dataclass_fields__}


def test_references(tmp_path):
    content = (
        '[{"prompt": "a", "reference_path": "a.png;../b.mp4"}, {"prompt": "b", "reference_path": ["a.png", "b.mp4"]}, '
        '{"prompt": "c", "reference_path": [], "mask_strategy": "0"}, {"prompt": "d", "reference_path": null}]'
    )
    references = [line.overrides["reference_path"] for line in read_prompt_file(write(tmp_path, content, "p.json"))]
    assert references == ["a.png;../b.mp4", "a.png;b.mp4", "", ""]


@pytest.mark.parametrize(
    "entry, message",
    [
        ('{"prompt": "x", "sed": 1}', "unknown key 'sed'; did you mean 'seed'?"),
        ('{"prompt": "x", "step": 1}', "unknown key 'step'; did you mean 'steps'?"),
        ('{"prompt": "x", "a\\nb": 1}', r"unknown key 'a\\nb'"),
        ('{"promt": "x"}', "the object has no 'prompt'"),
        ('{"seed": 1}', "the object has no 'prompt'"),
        ('{"prompt": "  "}', "the prompt is empty"),
        ('""', "the prompt is empty"),
        ('{"prompt": 3}', "'prompt' must be text, got 3"),
        ('{"prompt": "a\\u0000"}', "'prompt' has a character that is not text"),
        ('{"prompt": "a\\ud800"}', "'prompt' has a character that is not text"),
        ("[1]", r"a prompt is an object such as .*, got \[1\]"),
        ("null", "a prompt is an object"),
        ('{"prompt": "x", "prompt": "y"}', "key 'prompt' is given twice"),
        ('{"prompt": "x", "steps": 1, "num_sampling_steps": 1}', "'steps' and 'num_sampling_steps' are the same"),
        ('{"prompt": "x", "num_sampling_steps": 1, "steps": 1}', "'num_sampling_steps' and 'steps' are the same"),
        ('{"prompt": "x", "name": "a/b"}', "name 'a/b' cannot be a file name everywhere; 'a_b' can"),
        ('{"prompt": "x", "name": ""}', "name '' cannot be a file name"),
        ('{"prompt": "x", "name": "../../x"}', "cannot be a file name"),
        ('{"prompt": "x", "name": 3}', "'name' must be text"),
        ('{"prompt": "x", "camera_motion": "\\ud800"}', "'camera_motion' has a character that is not text"),
        ('{"prompt": "x", "reference_path": 3}', "must be a path or a list of paths, got 3"),
        ('{"prompt": "x", "reference_path": ["a;b"]}', "has an entry 'a;b'; each must be one path"),
        ('{"prompt": "x", "reference_path": [""]}', "has an entry ''"),
        ('{"prompt": "x", "reference_path": [1]}', "'reference_path' must be text, got 1"),
        ('{"prompt": "x", "mask_strategy": 0}', "'mask_strategy' must be text, got 0"),
        ('{"prompt": "x", "aes": NaN}', "NaN is not a number"),
        ('{"prompt": "x", "aes": 1e999}', "1e999 is too large a number"),
        ('{"prompt": "x"', r"invalid JSON \(Expecting ',' delimiter, column"),
        ('{"prompt": x}', r"invalid JSON \(Expecting value, column"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": "x", "seed": ' + "1" * 5000 + "}", "a number of 5000 digits is too long"),
        ('{"prompt": "' + "x" * (MAX_PROMPT + 1) + '"}', "100,001 characters are too long for a prompt"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_mistakes_in_json(tmp_path, suffix, entry, message):
    content = f'# fine\n"fine"\n{entry}\n' if suffix == "jsonl" else f'["fine",\n\n{entry}\n]'
    path = write(tmp_path, content, f"p.{suffix}")
    with pytest.raises(ConfigError, match=message) as error:
        read_prompt_file(path)
    # A list has prompts rather than lines, except where it is not JSON; what is not closed goes wrong in the next line.
    places = [", line 3: "] if suffix == "jsonl" else [", prompt 1: ", ", line 3: ", ", line 4: ", ": "]
    assert str(error.value).startswith(tuple(f"prompt file '{path}'{place}" for place in places))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", " \n\n# only a comment", "holds no prompt"),
        ("p.jsonl", "\n", "holds no prompt"),
        ("p.json", "[ ]", "holds no prompt"),
        ("p.json", "", r"line 1: invalid JSON \(Expecting value, column 1"),
        ("p.json", '\n{"prompt": "x"}', "'.*': a .json file of prompts must be a list"),
        ("p.json", '["a"\n"b"]', r"line 2: invalid JSON \(Expecting ',' delimiter, column 1"),
        ("p.json", '["a"]\nx', r"line 2: invalid JSON \(Extra data"),
        ("p.jsonl", '"a" "b"', "line 1: invalid JSON .Extra data, column 5"),
        ("p.txt", b"fine\ncaf\xe9", "line 2: not UTF-8 text"),
        ("p.txt", "a cat".encode("utf-16"), "not UTF-8 text .*; save it as UTF-8"),
        ("p.txt", b"a\0b", "has NUL bytes"),
        ("p.txt", "x" * (MAX_PROMPT + 1), "line 1: 100,001 characters are too long"),
        ("p.txt", 'fine\n{"prompt": "x"}', "line 2: no prompt before the '{'; objects go into a file named .jsonl"),
        ("p.jsonl", '{"prompt": "a", "name": "A"}\n{"prompt": "b", "name": "a"}', "line 2: name 'a' is also that of"),
        (
            "p.json",
            '[{"prompt": "a", "name": "A"},{"prompt": "b", "name": "A"}]',
            "prompt 1: name 'A' is also that of prompt 0",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    path = write(tmp_path, content, name)
    with pytest.raises(ConfigError, match=message) as error:
        read_prompt_file(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_file(tmp_path, monkeypatch):
    cases = {
        tmp_path / "none.txt": "there is no prompt file",
        tmp_path: "is a folder",
        "nul\0": "there is no prompt file",
    }
    cases |= {tmp_path / ("x" * 300): "there is no|cannot be read"}
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            read_prompt_file(path)
    path = write(tmp_path, "x")
    monkeypatch.setattr("pathlib.Path.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ConfigError, match=r"cannot be read \(permission denied\)"):
        read_prompt_file(path)


@SETTINGS
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0")), max_size=5))
def test_every_text_comes_back(tmp_path_factory, texts):
    texts = [text.strip() for text in texts if text.strip() and not text.strip().startswith(("{", "\\#", "\ufeff"))]
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    path.write_text("\n\n".join(f"\\{text}" if text.startswith("#") else text for text in texts), encoding="utf-8")
    if not texts:
        with pytest.raises(ConfigError, match="holds no prompt"):
            read_prompt_file(path)
        return
    lines = read_prompt_file(path)
    assert [line.text for line in lines] == texts
    assert [(line.index, line.line) for line in lines] == [(i, 2 * i + 1) for i in range(len(texts))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["prompt", "steps", *sorted(LINE_KEYS)]) | st.text(max_size=3)
objects = st.dictionaries(keys, json_values, max_size=4) | st.fixed_dictionaries({"prompt": st.text()})


@SETTINGS
@given(st.lists(objects | json_values, max_size=3), st.sampled_from(["json", "jsonl"]), st.booleans())
def test_any_json_is_read_or_refused(tmp_path_factory, entries, suffix, indented):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    texts = [json.dumps(entry) for entry in entries]
    path.write_text(json.dumps(entries, indent=2 if indented else None) if suffix == "json" else "\n".join(texts))
    check_outcome(path)


@SETTINGS
@given(
    st.binary(max_size=50) | st.text('[]{}",:#\\|0 \nab').map(str.encode),
    st.sampled_from(["txt", "csv", "json", "jsonl"]),
)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    path.write_bytes(content)
    check_outcome(path)


def check_outcome(path):
    try:
        lines = read_prompt_file(path)
    except ConfigError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert lines and [line.index for line in lines] == list(range(len(lines)))
    for line in lines:
        assert line.text == line.text.strip() != "" and set(line.overrides) <= LINE_KEYS
        line.text.encode()


def test_import_is_light():
    code = "import sys, opensora.prompts.files, opensora.prompts.refine; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
