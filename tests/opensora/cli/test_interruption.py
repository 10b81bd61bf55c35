"""A run that is killed, terminated or interrupted, and goes on: the same files as one that was left in peace."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from support import small_model
from tests.support import warm_python

STEMS = [f"sample_{i:04d}" for i in range(3)]
PROMPTS = ["a still red star", "a blue circle moving fast to the right", "a growing white square"]
ARGUMENTS = [
    *(small_model.SAMPLE, "--prompt", *PROMPTS, "--num-sampling-steps", "3", "--batch-size", "2"),
    *("--save-frames", "--preview", "webp", "--seed", "3", "--image-size", "32", "32"),
]
BYTES = [f"{stem}{suffix}" for stem in STEMS for suffix in (".mp4", ".frames.npz", ".preview.webp")]


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BYTES}


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_with_the_same_bytes(tmp_path, kills):
    done = warm_python.run(["tests/support/killed_runs.py", tmp_path, str(kills), "7", *ARGUMENTS], timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["done_at_kill"]) == kills and len(set(report["done_at_kill"])) > 1
    whole = read(tmp_path / "whole")
    for folder in map(Path, report["finished"]):
        assert read(folder) == whole
        manifest = json.loads((folder / "manifest.json").read_text())
        assert [manifest["samples"][stem]["status"] for stem in STEMS] == ["done"] * 3
        assert not list(folder.glob(".*.tmp")) and not (folder / "replaced").exists()


def test_killed_while_the_thread_writes_a_run_ends_with_the_same_bytes(tmp_path):
    arguments = [*ARGUMENTS, "--batch-size", "1", "--num-sampling-steps", "2"]
    done = warm_python.run(["tests/support/killed_while_writing.py", tmp_path, *arguments])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert list(report["status"].values()) == ["done", "running", "running"]
    assert len(report["unfinished"]) == 1 and report["unfinished"][0].startswith(".sample_0001.mp4.")
    assert read(tmp_path / "killed") == read(tmp_path / "whole")
    manifest = json.loads((tmp_path / "killed/manifest.json").read_text())
    assert [manifest["samples"][stem]["status"] for stem in STEMS] == ["done"] * 3
    assert not list((tmp_path / "killed").glob(".*.tmp"))


def test_signals_end_a_run_cleanly_and_the_next_one_goes_on(tmp_path):
    slow = ("--num-sampling-steps", "40", "--batch-size", "1", "--image-size", "64", "64")
    command, out = ["scripts/inference.py", *ARGUMENTS, *slow, "--save-dir", str(tmp_path / "out")], tmp_path / "out"
    for signum, code, stem in ((signal.SIGTERM, 143, STEMS[0]), (signal.SIGINT, 130, STEMS[1])):
        run = warm_python.start(command)
        deadline = time.monotonic() + 120
        while not (out / f"{stem}.mp4").is_file() and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signum)
        stdout, stderr = run.communicate(timeout=60)
        assert run.returncode == code, stderr
        assert "Traceback" not in stderr
        assert f"{stem}.mp4" in stdout  # the table of what is finished
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["runs"][-1]["outcome"] == "interrupted"
        assert "running" not in {sample["status"] for sample in manifest["samples"].values()}
    again = warm_python.run(command)
    assert again.returncode == 0, again.stderr
    assert "2 of 3 samples are in" in again.stderr and "video 3 of 3" in again.stderr
    assert len(json.loads((out / "manifest.json").read_text())["runs"]) == 3
