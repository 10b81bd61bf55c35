"""The sampling command on several processes: whole runs, deaths, refusals, several machines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opensora.cli.ledger import read_manifest
from opensora.errors import KEPT
from support import small_model
from tests.support import torchrun, warm_python

ROOT = warm_python.ROOT
SCRIPT = ROOT / "scripts/inference.py"
CONFIG = small_model.MOREG
PROMPTS = [f"a {color} circle moving right" for color in ("red", "green", "blue", "white", "yellow")]


def statuses(folder: Path) -> list[str]:
    """Of all samples, by name."""
    samples = read_manifest(folder)["samples"] if (folder / "manifest.json").is_file() else {}
    return [samples[stem]["status"] for stem in sorted(samples)]


def videos(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


@pytest.fixture(scope="module")
def arguments() -> list[str]:
    """Enough steps for somebody to be killed between them."""
    return [CONFIG, "--prompt", *PROMPTS, "--num-sampling-steps", "20"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, arguments) -> Path:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    done = warm_python.run([SCRIPT, *arguments, "--save-dir", folder])
    assert done.returncode == 0, done.stderr
    return folder


def test_a_process_that_is_killed_ends_the_others_and_any_number_of_them_goes_on(alone, arguments, tmp_path):
    folder = tmp_path / "out"
    command = [*arguments, "--save-dir", str(folder)]
    processes = torchrun.start_together([SCRIPT, *command], [SCRIPT, *command])
    try:
        deadline = time.monotonic() + torchrun.PATIENCE
        while statuses(folder).count("done") < 2:
            assert time.monotonic() < deadline and processes[0].poll() is None, processes[0].communicate()
            time.sleep(0.05)
        killed = time.monotonic()
        os.kill(processes[1].pid, signal.SIGKILL)
        _, errors = processes[0].communicate(timeout=30)
    finally:
        torchrun.kill_all(processes)
    assert time.monotonic() - killed < 30
    assert processes[0].returncode == 3
    died = f"error: rank 1 (host {socket.gethostname()}, process {processes[1].pid}) died; {KEPT}"
    assert died in errors
    assert "Traceback" not in errors
    kept = statuses(folder)
    assert 2 <= kept.count("done") < len(PROMPTS)
    assert "running" not in kept
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["runs"][0]["outcome"].startswith("error: rank 1 ")

    # Without the axes, the processes' arrangement would depend on how many samples are left to make.
    done = torchrun.run(3, SCRIPT, *command, "--guidance-parallel", "1", "--sequence-parallel", "1")
    assert done.returncode == 0, done.stderr
    assert "3 processes: data 3 x guidance 1 x sequence 1" in done.stderr
    assert f"{kept.count('done')} of {len(PROMPTS)} samples are in {folder} already" in done.stderr
    assert statuses(folder) == ["done"] * len(PROMPTS)
    assert videos(folder) == videos(alone)
    assert done.stdout.count("sample_000") == len(PROMPTS)  # the table, once


@pytest.mark.parametrize("victim", [0, 1])
def test_no_process_waits_for_one_that_died_within_a_step(arguments, tmp_path, victim):
    command = [*arguments, "--guidance-parallel", "2", "--save-dir", str(tmp_path / "out")]
    processes = torchrun.start_together([SCRIPT, *command], [SCRIPT, *command])
    try:
        deadline = time.monotonic() + torchrun.PATIENCE
        while "done" not in statuses(tmp_path / "out"):
            assert time.monotonic() < deadline and processes[0].poll() is None, processes[0].communicate()
            time.sleep(0.05)
        os.kill(processes[victim].pid, signal.SIGKILL)
        _, errors = processes[1 - victim].communicate(timeout=30)
    finally:
        torchrun.kill_all(processes)
    assert processes[1 - victim].returncode == 3
    assert ("rank 0, which leads the run, died" if victim == 0 else "error: rank 1 (host ") in errors
    assert "done" in statuses(tmp_path / "out")


@pytest.mark.parametrize("agents", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_machines_meet(arguments, tmp_path, agents):
    """One process on each: the branches of guidance; with agents of torchrun, or only with their variables."""
    command = [SCRIPT, *arguments[:3], "--num-sampling-steps", "4", "--guidance-parallel", "2", "--save-dir"]
    command.append(tmp_path / "out")
    if agents:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        options = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
        started = [torchrun.start_agent(1, command, *options) for _ in range(2)]
    else:
        started = torchrun.start_together(command, command, machines=True)
    try:
        outputs = [process.communicate(timeout=torchrun.PATIENCE) for process in started]
    finally:
        torchrun.kill_all(started)
    assert [process.returncode for process in started] == [0, 0], outputs
    assert statuses(tmp_path / "out") == ["done"]
    sidecar = json.loads((tmp_path / "out/sample_0000.json").read_text())
    assert sidecar["metadata"]["processes"] == "data 1 x guidance 2 x sequence 1"


def test_processes_with_different_commands_are_refused_before_anything_is_loaded(tmp_path):
    commands = [[SCRIPT, CONFIG, "--prompt", "a", "--save-dir", str(tmp_path), "--seed", seed] for seed in ("1", "2")]
    processes = torchrun.start_together(*commands)
    try:
        outputs = [process.communicate(timeout=torchrun.PATIENCE) for process in processes]
    finally:
        torchrun.kill_all(processes)
    assert [process.returncode for process in processes] == [2, 2]
    errors = outputs[0][1]
    assert "error: rank 1 (host " in errors and ("has sample sample_0000" in errors or "has seed 2" in errors)
    assert "loading" not in errors
    assert outputs[1][1].count("error") == 0  # said once
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("count", "flags", "words"),
    [
        (1, ["--sequence-parallel", "2"], "sequence_parallel=2 needs 2 processes, but one process runs"),
        (2, ["--sequence-parallel", "3"], "sequence_parallel=3 needs 3 processes, but 2 run"),
        (2, ["--sequence-parallel", "2", "--image-size", "16", "16"], "sequence_parallel=2 has nothing to split"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_sentence(tmp_path, count, flags, words):
    command = [SCRIPT, CONFIG, "--prompt", "a", "--save-dir", tmp_path / "out", *flags]
    done = torchrun.run(count, *command)
    assert done.returncode != 0
    assert done.stderr.count("error: " + words) == 1
    assert "loading" not in done.stderr


def test_the_benchmark_tells_bytes_of_computed_and_reused_steps():
    arguments = [CONFIG, "--prompt", PROMPTS[0], "--num-sampling-steps", "16"]  # of fewer, all are computed
    done = torchrun.run(2, ROOT / "scripts/bench_parallel.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    computed = [line.split() for line in lines if " computed " in line]
    reused = [line.split() for line in lines if line.split()[:1] == ["reused"]]
    assert [row[:6] for row in computed] == [
        ["data", "1", "x", "guidance", "1", "x"],
        ["data", "1", "x", "guidance", "2", "x"],
    ]
    assert int(computed[0][9].replace(",", "")) > 0
    assert [row[1:3] for row in reused] == [["0", "0"], ["0", "0"]]
    assert all(0 < int(row[10]) <= 64 and row[-1] == "yes" for row in computed)


@pytest.mark.slow
def test_one_process_imports_nothing_of_it(tmp_path):
    code = (
        "import sys; from scripts.inference import main; "
        f"assert main(['{CONFIG}', '--prompt', 'a', '--verbose', '0', '--save-dir', '{tmp_path}']) == 0; "
        "print([name for name in sys.modules if name.startswith(('colossalai', 'opensora.acceleration.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['opensora.acceleration.launch']", done


@pytest.mark.parametrize("device", ["cuda:1", "cpu"])
def test_a_device_that_processes_cannot_share_is_refused(monkeypatch, device):
    import torch

    from opensora.cli.parallel import check_device_of_all
    from opensora.config.loading import load_config
    from opensora.errors import ConfigError

    config = load_config(CONFIG, {"device": device})
    if device == "cpu":
        check_device_of_all(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="leave --device out"):
        check_device_of_all(config)
    check_device_of_all(load_config(CONFIG, {}))
