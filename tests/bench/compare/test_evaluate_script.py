"""The command: its exit codes and what it prints."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scripts import evaluate

CLIP = np.full((2, 48, 48, 3), 100, np.uint8)


@pytest.fixture
def folders(save):
    reference = save("reference", "x", CLIP, "video", "npz", prompt="a dog")
    return reference, save("samples", "x", CLIP + np.uint8(1), "video", "npz", prompt="a dog")


def test_it_prints_and_writes(folders, tmp_path, capsys):
    output = tmp_path / "out" / "results.json"
    assert evaluate.main([*map(str, folders), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[2].split()[:2] == ["x", "48.13"] and f"wrote {output}" in told.out
    assert "comparing: 100%" in told.err
    assert json.loads(output.read_text())["mean"]["psnr"]["mean"] == pytest.approx(48.13, abs=0.01)


def test_a_clip_that_was_not_compared_shows_in_the_exit_code(folders, save, tmp_path, capsys):
    save("reference", "y", CLIP)
    assert evaluate.main([*map(str, folders), "--output", str(tmp_path / "results.csv")]) == 1
    told = capsys.readouterr().out
    assert "48.13" in told and f"y: missing in {folders[1]}" in told
    assert (tmp_path / "results.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{0}"], "the following arguments are required: DIR_SAMPLES"),
        (["{0}", "{1}x"], "no folder at"),
        (["{0}", "{1}/.."], "no clips in"),
        (["{0}", "{1}", "--output", "results.txt"], "written as .json or .csv, not as 'results.txt'"),
        (["{0}", "{1}", "--output", "{0}/x.json/y.json"], "choose another one with --output"),
        (["{0}", "{1}", "--outptu", "x.json"], "did you mean '--output'?"),
    ],
)
def test_mistakes_are_told_in_one_line(folders, capsys, arguments, message):
    try:
        code = evaluate.main([argument.format(*folders) for argument in arguments])
    except SystemExit as exit:
        code = exit.code
    stderr = capsys.readouterr().err
    assert code == 2
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and message in stderr


def test_a_folder_whose_name_looks_like_a_protocol_is_a_folder(save, tmp_path, monkeypatch, capsys):
    save("a:b", "x", CLIP, "video")
    save("c", "x", CLIP, "video")
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["a:b", "c"]) == 0
    assert "80.00" in capsys.readouterr().out
