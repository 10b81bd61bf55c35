"""The command a newcomer types, in a process of its own, on the bundled weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from opensora.config.loading import load_config
from opensora.datasets.video_io import read_video
from support import small_model
from tests.support import warm_python

ROOT = warm_python.ROOT


def sample(*arguments: str) -> subprocess.CompletedProcess:
    return warm_python.run([ROOT / "scripts/inference.py", *arguments])


def test_one_command_makes_a_video_its_trace_and_a_picture(tmp_path):
    """From another working directory, with relative output, as a user would; Python starts anew."""
    command = [sys.executable, ROOT / "scripts/inference.py", ROOT / "configs/mini/sample_adacache.py", "--prompt"]
    command += ["a red circle moving fast to the right", "--save-dir", "out"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    frames, fps = read_video(tmp_path / "out/sample_0000.mp4")
    config = load_config("configs/mini/sample_adacache.py")
    assert (*frames.shape, fps) == (config.num_frames, config.height, config.width, 3, config.save_fps)
    trace = json.loads((tmp_path / "out/sample_0000.json").read_text())
    assert len(trace["records"]) == trace["num_steps"] == 30
    assert trace["metadata"]["prompt"] == "a red circle moving fast to the right"
    assert {"seed", "config", "versions"} <= trace["metadata"].keys()
    assert (tmp_path / "out/sample_0000.trace.png").stat().st_size > 10_000
    assert "computed steps" in done.stdout
    assert f"{len(trace['computed_steps'])}/30" in done.stdout


def test_a_replayed_run_gives_the_same_files(tmp_path):
    """Under the same schedule nothing is measured, and the video is the same to the last byte."""
    prompt = ["--prompt", "a still red star", "--num-sampling-steps", "8", "--save-frames"]
    first = sample(small_model.ADACACHE, *prompt, "--save-dir", str(tmp_path / "first"))
    assert first.returncode == 0, first.stderr
    trace = tmp_path / "first/sample_0000.json"
    again = sample(small_model.SAMPLE, *prompt, "--replay", str(trace), "--save-dir", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    for name in ("sample_0000.mp4", "sample_0000.frames.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    recorded, replayed = (json.loads((tmp_path / f / "sample_0000.json").read_text()) for f in ("first", "again"))
    assert replayed["computed_steps"] == recorded["computed_steps"]
    assert all(record["distance"] is None for record in replayed["records"])


@pytest.mark.parametrize("config", ["sample.py", "sample_adacache_moreg.py"])
def test_the_other_variants_sample(tmp_path, config):
    done = sample(
        f"configs/mini/{config}",
        "--prompt",
        "a still red star",
        "--num-sampling-steps",
        "6",
        "--save-dir",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sample_0000.mp4").is_file()
    assert (tmp_path / "sample_0000.trace.png").is_file() == (config != "sample.py")
    assert "6/6" in done.stdout or config != "sample.py"
