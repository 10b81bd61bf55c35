"""Prompts and prompt files that cannot be used, alone or among good ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command_cases import OUT, Case

EMOJI = "\N{ROCKET}"


def file(content: str | bytes, name: str = "p.txt") -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def lines(*entries: object) -> Callable[[Path], None]:
    """A .jsonl file; entries that are text are lines as they stand."""
    texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return file("\n".join(texts) + "\n", "p.jsonl")


def prompt(text: str, *words: str, **more: object) -> Case:
    """A single prompt of the command line."""
    return Case(["--prompt", text], words, **more)


def of_file(given: Callable[[Path], None], *words: str, name: str = "p.txt", **more: object) -> Case:
    return Case(["--prompt-path", name], words, given=given, **more)


def of_lines(*entries: object, words: tuple[str, ...], **more: object) -> Case:
    return of_file(lines(*entries), *words, name="p.jsonl", **more)


REFUSED = {
    "empty": prompt("", "prompt 0 is empty"),
    "only spaces": prompt(" \t ", "prompt 0 is empty"),
    "only settings": prompt('{"mask_strategy": "0"}', "prompt 0 is empty"),
    "open brace": prompt("a { cat", "'a { cat'", "JSON"),
    "closed too early": prompt('a {"reference_path": "x"}} cat', "JSON"),
    "unknown setting": prompt('a {"referense": "x"}', "unknown setting 'referense'", "reference_path"),
    "setting of a number": prompt('a {"mask_strategy": 0}', "'mask_strategy'", "must be text"),
    "setting twice": prompt('a {"mask_strategy": "0", "mask_strategy": "0"}', "given twice"),
    "segments out of order": prompt("|0|a|2|b|1|c", "must ascend", "[0, 2, 1]"),
    "not English": prompt("一只猫", "prompt 0", "reads English", "'一只猫'"),
    "nothing but signs": prompt("***", "cannot read any of '***'"),
    "a segment that is not English": prompt("|0|a|1|一只猫", "reads English", "'一只猫'"),
    "an empty segment": prompt("|0|a|1|", "segment |1|", "empty"),
    "a segment beyond the loops": prompt("|0|a|3|b", "segment |3|", "--loop 4"),
    "200,000 characters and a brace": prompt("a" * 200_000 + "{", "JSON"),
    "both empty": Case(["--prompt", "", " "], ["prompt 0 is empty"]),
    "a file that is not there": Case("--prompt-path nowhere.txt", ["there is no prompt file 'nowhere.txt'"]),
    "a folder": Case("--prompt-path out", ["prompt file 'out' is a folder"]),
    "a file name with NUL": Case(["--prompt-path", "a\0.txt"], ["no prompt file"]),
    "an empty file": of_file(file(""), "'p.txt' holds no prompt"),
    "blank lines only": of_file(file("\n \n\t\n"), "'p.txt' holds no prompt"),
    "comments only": of_file(file("# a\n# b\n"), "'p.txt' holds no prompt"),
    "not UTF-8": of_file(file(b"a cat\nein K\xe4fer\n"), "'p.txt', line 2", "save it as UTF-8"),
    "UTF-16": of_file(file("a cat\n".encode("utf-16")), "'p.txt'", "save it as UTF-8"),
    "NUL bytes": of_file(file(b"a\0cat\n"), "NUL", "UTF-8"),
    "200,000 characters in a line": of_file(file("a\n" + "b" * 200_000), "line 2", "200,000 characters are too long"),
    "an object in a text file": of_file(file('{"prompt": "a"}\n'), "line 1", ".jsonl"),
    "start beyond the file": Case(
        "--prompt-path p.txt --start-index 2", ["'p.txt' holds 2 prompts, none from", "2"], given=file("a\nb\n")
    ),
    "start far beyond the file": Case(
        f"--prompt-path p.txt --start-index {10**30}", ["'p.txt' holds 2 prompts"], given=file("a\nb\n")
    ),
    "broken JSON in line 3": of_lines({"prompt": "a"}, "", '{"prompt": "b",}', words=("'p.jsonl', line 3", "invalid")),
    "a list in a line": of_lines([1], words=("line 1", '{"prompt": "a red circle"}', "[1]")),
    "no prompt in a line": of_lines({"seed": 3}, words=("line 1", "no 'prompt'")),
    "unknown key": of_lines({"prompt": "a", "sed": 3}, words=("line 1", "unknown key 'sed'", "'seed'")),
    "a key of the whole run": of_lines({"prompt": "a", "save_dir": "x"}, words=("line 1", "unknown key 'save_dir'")),
    "NaN": of_lines('{"prompt": "a", "cfg_scale": NaN}', words=("line 1", "NaN")),
    "a key twice": of_lines('{"prompt": "a", "seed": 1, "seed": 2}', words=("line 1", "key 'seed' is given twice")),
    "names alike": of_lines(
        {"prompt": "a", "name": "x"}, {"prompt": "b", "name": "X"}, words=("line 2", "name 'X' is also that of line 1")
    ),
    "a name that leads away": of_lines({"prompt": "a", "name": "../x"}, words=("line 1", "../x")),
    "a name of 300 rockets": of_lines({"prompt": "a", "name": EMOJI * 300}, words=("line 1", "cannot be a file name")),
    "a reserved name": of_lines({"prompt": "a", "name": "CON"}, words=("line 1", "'CON'", "'_CON'")),
    "half a surrogate pair": of_lines('{"prompt": "\\ud800"}', words=("line 1", "surrogate")),
    "ten thousand brackets": of_lines('{"prompt": ' + "[" * 10_000, words=("line 1", "nested too deeply")),
    "a seed of text in the only line": of_lines({"prompt": "a", "seed": "x"}, words=("prompt 0", "seed", "'x'")),
    "a seed of 2**64 in the only line": of_lines({"prompt": "a", "seed": 2**64}, words=("seed", str(2**64))),
}

ONE_FAILS = {
    "an empty one": Case(["--prompt", "", "b"], ["prompt 0 is empty"], 1, written=["sample_0001.png"]),
    "an open brace": Case(["--prompt", "a", "b {"], ["'b {'", "JSON"], 1, written=["sample_0000.png"]),
    "unknown steps": of_lines(
        {"prompt": "a", "steps": "many"}, {"prompt": "b"},
        words=("prompt 0 (line 1 of p.jsonl)", "num_sampling_steps must be a whole number, got 'many'"),
        code=1, written=["sample_0001.png"],
    ),
    "a seed of text": of_lines(
        {"prompt": "a", "seed": "x"}, {"prompt": "b"}, words=("seed", "'x'"), code=1, written=["sample_0001.png"]
    ),
    "a seed of 2**64": of_lines(
        {"prompt": "a", "seed": 2**64}, {"prompt": "b"},
        words=("seed", "too large"), code=1, written=["sample_0001.png"],
    ),
    "a negative guidance": of_lines(
        {"prompt": "a"}, {"prompt": "b", "cfg_scale": -3},
        words=("line 2", "cfg_scale must be at least 0, got -3"), code=1, written=["sample_0000.png"],
    ),
    "a size of 3": of_lines(
        {"prompt": "a"}, {"prompt": "b", "image_size": [3, 16]},
        words=("line 2", "height must be at least 8, got 3"), code=1, written=["sample_0000.png"],
    ),
    "two sizes": of_lines(
        {"prompt": "a"}, {"prompt": "b", "image_size": [16, 16], "resolution": "240p"},
        words=("line 2", "image_size and resolution cannot be combined"), code=1, written=["sample_0000.png"],
    ),
    "an unknown solver": of_lines(
        {"prompt": "a"}, {"prompt": "b", "solver": "eular"},
        words=("line 2", "did you mean 'euler'"), code=1, written=["sample_0000.png"],
    ),
    "a target without a calibration": of_lines(
        {"prompt": "a"}, {"prompt": "b", "speedup": 2},
        words=("sample_0001", "calibration"), code=1, written=["sample_0000.png"],
    ),
    "a reference that is not there": of_lines(
        {"prompt": "a"}, {"prompt": "b", "reference_path": "no.png"},
        words=("prompt 1: reference 'no.png' does not exist",), code=1, written=["sample_0000.png"],
    ),
    "a mask strategy of words": of_lines(
        {"prompt": "a"}, {"prompt": "b", "mask_strategy": "all"},
        words=("prompt 1", "mask strategy 'all'"), code=1, written=["sample_0000.png"],
    ),
}  # fmt: skip

# Nothing is wrong with these as names of files, however much they look like it.
NAMES = {
    "hostile ones": [
        "../../etc/passwd",
        "/abs/path",
        ".. a",
        ". a",
        "CON",
        "--seed=3",
        EMOJI * 300,
        "a red circle " * 4_000,
        "manifest.json",
        ".manifest.lock",
    ],
    "those of the run": ["manifest", "contact_sheet", "Drafts"],
    "those of another sample": ["a", "a.trace", "a.loop1", "a.frames"],
    "equal ones": ["A Cat", "a cat", "a cat_0000", "a cat_0001"],
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_sampled_is_refused(check_case, case):
    check_case(case)


@pytest.mark.parametrize("case", ONE_FAILS.values(), ids=ONE_FAILS.keys())
def test_one_bad_prompt_fails_alone(check_case, case):
    outcome = check_case(case)
    assert "1 of 2 samples failed" in outcome.stdout


@pytest.mark.parametrize("prompts", NAMES.values(), ids=NAMES.keys())
def test_names_made_of_prompts_stay_in_the_folder(check_case, folder, prompts):
    (folder / "p.json").write_text(json.dumps(prompts))
    around = {path.name for path in folder.iterdir()}
    before = set((folder / OUT).glob("*.png"))
    check_case(Case("--prompt-path p.json --prompt-as-path", code=0))
    assert {path.name for path in folder.iterdir()} == around
    assert len(set((folder / OUT).glob("*.png")) - before) == len(prompts)
