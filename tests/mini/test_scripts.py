"""The mini model's scripts tell mistakes in one line, before anything is sampled."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from torch._inductor import config as inductor

from opensora.errors import ConfigError
from opensora.files import REPO_ROOT


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "check_captions.py --num-frames 9",
            "needs 17 frames, or one, of 128 x 128 pixels or more, got 9 of",
        ),
        ("check_captions.py --image-size 32 32", "of 32 x 32"),
        ("check_captions.py --seeds -1", "must not be negative"),
        ("check_captions.py --given first-chunk", "give --num-frames 34 or 51, too"),
        ("check_captions.py nope.py", "nope.py"),
        ("train_mini.py --processes 0", "--processes must be at least 1"),
        ("train_mini.py --minutes 0", "--minutes is 0.0; use a positive number"),
        ("train_mini.py --rate 0", "--rate is 0.0; use a positive number"),
        ("train_mini.py --from mini", "--from mini: there is no vae/config.json in it"),
        ("train_mini.py --from tests/support/small_model", "are not those that this command trains"),
        ("train_mini.py --from assets/opensora-mini --until vae", "use --first vae"),
        ("train_mini.py --from assets/opensora-mini --until words", "the words stage is left out"),
        ("train_mini.py --first decoders", "--first decoders needs --from FOLDER"),
        ("validate_check.py --clips 0", "--clips is 0"),
    ],
)
def test_mistakes_are_told_in_one_line(command, message, monkeypatch, capsys):
    script, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        import_module(f"scripts.{script.removesuffix('.py')}").main()
    assert ended.value.code not in (None, 0)
    assert message in f"{capsys.readouterr().err}{ended.value.code}"


@pytest.mark.parametrize("part", ["vae", "transformer", "text_encoder"])
@pytest.mark.parametrize("harm", ["absent", "cut"])
def test_weights_to_start_from_are_checked_before_any_work(part, harm, tmp_path, monkeypatch, capsys):
    train_mini = import_module("scripts.train_mini")
    monkeypatch.setattr(train_mini, "run_workers", lambda *_: pytest.fail("the training started"))
    start = tmp_path / "start"
    for name in ("vae", "transformer", "text_encoder"):
        shutil.copytree(REPO_ROOT / "assets/opensora-mini" / name, start / name)
    weights = start / part / "model.safetensors"
    if harm == "absent":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-9])
    monkeypatch.setattr(sys, "argv", ["train_mini.py", "--from", str(start), "--work", str(tmp_path / "work")])
    with pytest.raises(SystemExit):
        train_mini.main()
    error = capsys.readouterr().err
    assert "error: --from: " in error and part in error and "Traceback" not in error
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("end", "code"), [(KeyboardInterrupt(), 130), (ConfigError("it stopped"), "error: it stopped")]
)
def test_captions_that_were_checked_are_reported_if_the_rest_is_not(end, code, tmp_path, monkeypatch, capsys):
    check_captions = import_module("scripts.check_captions")
    videos = iter([[np.zeros((17, 128, 128, 3), np.uint8)]])

    class Pipeline:
        cache, model, scheduler = None, None, SimpleNamespace(num_sampling_steps=30)

        def __call__(self, texts, **_):
            if (made := next(videos, None)) is None:
                raise end
            return SimpleNamespace(videos=made, traces=[None])

    monkeypatch.setattr("opensora.pipeline.SamplingPipeline.from_config", lambda config: Pipeline())
    monkeypatch.setattr("opensora.device.limit_threads", lambda model: None)
    arguments = ["--captions", "3", "--seeds", "7", "--batch-size", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["check_captions.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        check_captions.main()
    assert ended.value.code == code and "item " in capsys.readouterr().out
    [row] = json.loads((tmp_path / "checks.json").read_text())
    assert (row["seed"], row["found"], row["all"]) == (7, False, False)
    assert (tmp_path / "sheet.png").is_file()


def test_a_training_to_be_compiled_needs_a_compiler(tmp_path, monkeypatch, capsys):
    train_mini = import_module("scripts.train_mini")
    monkeypatch.setattr(train_mini, "run_workers", lambda *_: pytest.fail("the training started"))
    monkeypatch.setattr(sys, "argv", ["train_mini.py", "--compile", "--work", str(tmp_path)])
    with inductor.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(SystemExit):
        train_mini.main()
    assert "--compile: compile=True cannot be used on cpu: there is no C++ compiler" in capsys.readouterr().err
