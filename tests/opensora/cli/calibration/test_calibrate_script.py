"""The command: what it writes, whatever its target, and how it tells mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adacache.calibration.calibration import Calibration
from opensora.config.loading import load_config
from scripts import calibrate
from support import small_model

ROOT = Path(__file__).resolve().parents[4]
MINI = small_model.SAMPLE
# 30 calls: every step, 4 and 5 of 6 steps for one clip to fit to and one to measure on.
SMALL = ["--fit-clips=1", "--held-out-clips=1", "--candidates=1", "--cfg-options", "scheduler.num_sampling_steps=6"]
SIZE = "image_size=[32,48]"


def test_a_target_out_of_reach_leaves_the_calibration_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert calibrate.main([MINI, *SMALL, SIZE, "--min-psnr", "79", "--output", str(tmp_path)]) == 2
    done = capsys.readouterr()
    error = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and done.err.endswith(f"{error[0]}\n")
    assert "min_psnr 79 dB cannot be promised: the calibration measured up to" in error[0]
    assert f"the calibration itself is in {tmp_path}" in error[0]
    assert "30/30" in done.err  # the progress bar's end
    assert done.out.startswith(
        "calls of the model: 30 (fitting on 1 clips, measuring on 1 others)\n"
        "computed of 6   denoising   PSNR to the uncached video: mean (lowest)\n"
    )
    calibration = Calibration.load(tmp_path / "calibration.json")
    assert [len(point.computed_steps) for point in calibration.measured] == [4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibrated.py", "calibration.json", "calibration.png"]


def test_the_config_it_writes_samples_what_was_calibrated(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    base = tmp_path / "base.py"  # with a size and a target of its own
    size = "image_size = None\nresolution = '144p'\naspect_ratio = '9:16'\n"
    base.write_text(f"_base_ = {str(ROOT / MINI)!r}\n{size}min_psnr = 30\n")
    output = tmp_path / "out"
    code = calibrate.main([str(base), *SMALL, SIZE, "--max-steps-computed", "4", "--output", str(output)])
    told = capsys.readouterr().out
    assert code == 0
    calibration = Calibration.load(output / "calibration.json")
    schedule = calibration.points[0].computed_steps
    assert f"max_steps_computed 4: computed steps {list(schedule)}" in told
    assert f"wrote {output}/calibration.json" in told

    config = load_config(output / "calibrated.py")
    assert config.cache.computed_steps == schedule
    assert (config.height, config.width, config.scheduler.num_sampling_steps) == (32, 48, 6)
    assert (config.max_steps_computed, config.min_psnr) == (4, None)
    assert config.scheduler.cfg_scale == 5  # the rest of the section is the base's
    assert len(load_config(output / "calibrated.py", {"max_steps_computed": 5}).cache.computed_steps) == 5
    text = (output / "calibrated.py").read_text()
    assert "# Measured on 1 held-out clips" in text
    for line in told.splitlines()[1:4]:
        assert line in text  # the curve

    # A second calibration may start from it, but must not take its own base away.
    again = [str(output / "calibrated.py"), *SMALL, "--output", str(output)]
    assert calibrate.main(again) == 2
    assert "calibrated.py would be overwritten; choose another folder with --output" in capsys.readouterr().err
    assert (output / "calibrated.py").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("configs/mini/sampel.py", "did you mean 'configs/mini/sample.py'"),
        (f"{MINI} --fit-clips 0", "--fit-clips is 0; give at least 1"),
        (f"{MINI} --candidates -1", "--candidates is -1; give at least 1"),
        (f"{MINI} --aim perfection", "argument --aim: invalid choice: 'perfection'"),
        (f"{MINI} --speedup 0.5", "command line: speedup must be at least 1, got 0.5"),
        (f"{MINI} --min-psnr nan", "min_psnr must be a finite number"),
        (f"{MINI} --max-steps-computed 0", "max_steps_computed must be a whole number >= 1"),
        (f"{MINI} --speedup 2 --min-psnr 30", "not allowed with argument --speedup"),
        (f"{MINI} --prompt cats.txt", "'--prompt'; did you mean '--prompt-path'"),
        (f"{MINI} --prompt-path nowhere.txt", "nowhere.txt"),
        (f"{MINI} --cfg-options end_index=1", "at least two different prompts"),
        (f"{MINI} --output README.md/x", "choose another one with --output"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        code = calibrate.main(arguments.split())
    except SystemExit as exit:
        code = exit.code
    stderr = capsys.readouterr().err
    assert code == 2
    assert stderr.startswith("error: ") and stderr.count("\n") == 1
    assert message in stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-steps-computed", "7"], "a run of 6 steps computes 2 to 6"),
        (["--speedup", "3.5"], "computes at least 2, which is 3x at most"),
        (["--min-psnr", "81"], "which stands for equal videos"),
    ],
)
def test_what_no_calibration_could_meet_is_refused_before_any_work(tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(ROOT)
    assert calibrate.main([MINI, *SMALL, SIZE, *flags, "--output", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_targets_are_flags_of_their_own(capsys):
    assert calibrate.main([MINI, "--cfg-options", "speedup=3"]) == 2
    assert capsys.readouterr().err == "error: command line: speedup is a flag of this command; give --speedup\n"


def test_a_calibration_is_not_made_with_another(capsys):
    assert calibrate.main([MINI, "--cfg-options", "calibration=other.json"]) == 2
    assert "command line: calibration is what this command writes" in capsys.readouterr().err
