"""Ledger, traces, replay, targets, calibration and bench on Latte and Open-Sora-Plan."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adacache.calibration import plan
from adacache.trace import Trace
from bench.plan import read_plan
from opensora.cli.parallel import mesh_of
from opensora.config.loading import config_from_dict, load_config
from opensora.errors import ConfigError
from scripts import bench, calibrate, inference
from tests.support import torchrun
from tests.support.tiny_latte import PROMPTS, latte_config, open_sora_plan_config, write_config

ROOT = Path(__file__).resolve().parents[3]
CACHE = {"codebook": [(0.4, 3), (0.8, 2), (9.0, 1)], "metric_blocks": (1,)}


def sample(config: Path, folder: Path, *arguments: str) -> dict[str, np.ndarray]:
    """Run the command; the frames of all videos by file name."""
    flags = ["--save-frames", "--save-dir", str(folder), *arguments]
    assert inference.main([str(config), *flags]) == 0
    return frames_in(folder)


def frames_in(folder: Path) -> dict[str, np.ndarray]:
    """The frames of all videos in a folder, by file name."""
    return {path.name: np.load(path)["frames"] for path in sorted(folder.glob("*.frames.npz"))}


@pytest.fixture(scope="module")
def cached(config_file, entries) -> Path:
    """The config with a cache."""
    return write_config(config_file.with_name("cached.py"), {**entries, "cache": CACHE})


@pytest.fixture(scope="module")
def made(cached) -> Path:
    """The folder of a run with the cache."""
    sample(cached, cached.with_name("made"))
    return cached.with_name("made")


def test_the_command_samples_and_is_continued(cached, made):
    frames, config = frames_in(made), load_config(cached)
    assert [video.shape for video in frames.values()] == [(config.num_frames, config.height, config.width, 3)] * 2
    assert all(video.std() > 1 for video in frames.values())
    traces = [Trace.load(path) for path in sorted(made.glob("*[0-9].json"))]
    assert [trace.num_steps for trace in traces] == [config.scheduler.num_model_calls] * 2
    assert all(trace.num_reused > 0 for trace in traces)
    (made / "sample_0001.mp4").unlink()
    before = (made / "sample_0000.mp4").stat().st_mtime_ns
    again = sample(cached, made)
    assert (made / "sample_0000.mp4").stat().st_mtime_ns == before
    assert all(np.array_equal(again[name], frames[name]) for name in frames)
    assert len(json.loads((made / "manifest.json").read_text())["runs"]) == 2


def test_guidance_branches_run_on_two_processes(tmp_path, cached, made):
    arguments = [ROOT / "scripts/inference.py", cached, "--save-frames", "--save-dir", tmp_path / "out"]
    done = torchrun.run(2, *arguments, "--guidance-parallel", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    shared = frames_in(tmp_path / "out")
    for name, alone in frames_in(made).items():
        assert np.abs(shared[name].astype(int) - alone).max() <= 1  # rounding, before that to whole numbers
        trace = name.replace(".frames.npz", ".json")
        steps = [Trace.load(folder / trace).computed_steps for folder in (made, tmp_path / "out")]
        assert steps[0] == steps[1]


def test_frames_are_not_split(latte_folder):
    config = config_from_dict(latte_config(latte_folder, sequence_parallel=2))
    with pytest.raises(ConfigError, match="sequence_parallel=2 does not work with "):
        mesh_of(SimpleNamespace(config=config, samples=()), 2)


def test_a_trace_is_replayed(tmp_path, config_file, made):
    replay = ["--prompt", PROMPTS[0], "--cfg-options", f"replay={made}/sample_0000.json"]
    replayed = sample(config_file, tmp_path / "again", *replay)
    assert np.array_equal(replayed["sample_0000.frames.npz"], frames_in(made)["sample_0000.frames.npz"])


def test_a_target_is_calibrated_and_met(tmp_path, plan_folder, capsys, monkeypatch):
    config = write_config(tmp_path / "config.py", open_sora_plan_config(plan_folder))
    calls = load_config(config).scheduler.num_model_calls
    monkeypatch.setattr(plan, "MEASURED", (5 / calls,))
    small = ["--fit-clips=1", "--held-out-clips=1", "--candidates=1", "--output", str(tmp_path / "calibration")]
    assert calibrate.main([str(config), *small, "--max-steps-computed", "5"]) == 0
    assert f"computed of {calls}" in capsys.readouterr().out
    sample(tmp_path / "calibration" / "calibrated.py", tmp_path / "out")
    trace = Trace.load(tmp_path / "out" / "sample_0000.json")
    assert (trace.num_steps, trace.num_computed) == (calls, 5)


def test_a_calibration_of_another_solver_is_refused(tmp_path, latte_folder):
    config = write_config(tmp_path / "ddim.py", latte_config(latte_folder))
    small = ["--fit-clips=1", "--held-out-clips=1", "--candidates=1", "--output", str(tmp_path / "calibration")]
    assert calibrate.main([str(config), *small, "--max-steps-computed", "5"]) == 0
    scheduler = {"type": "pndm", "num_sampling_steps": 6, "cfg_scale": 5.0}
    target = {"calibration": str(tmp_path / "calibration" / "calibration.json"), "max_steps_computed": 5}
    other = write_config(tmp_path / "pndm.py", latte_config(latte_folder, scheduler=scheduler, **target))
    with pytest.raises(ConfigError, match="solver ddim, but this run has pndm"):
        load_config(other)


def test_policies_are_compared(tmp_path, latte_folder):
    """The plan for the published weights, at a tiny size."""
    text = (ROOT / "configs/bench/latte.py").read_text()
    for old, new in (
        ('"open_sora_480p.py"', repr(str(ROOT / "configs/bench/open_sora_480p.py"))),
        ("adacache=dict(", "adacache=dict(cache=dict(metric_blocks=(1,)), "),
        ("budgets = (14, 16, 20, 25, 34)", "budgets = (5,)"),
        ("exact_steps = 200", "exact_steps = 12"),
        ("showcase_budgets = (20,)", "showcase_budgets = (5,)"),
        ('title = "Cache', 'tuning_clips = 1\ntitle = "Cache'),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "plan.py"
    path.write_text(text)
    config = write_config(tmp_path / "latte.py", latte_config(latte_folder, prompt=list(PROMPTS)))
    policies = ["adacache", "taylorseer", "euler_steps"]
    arguments = [str(path), "--sample", str(config), "--prompts", "1", "--output", str(tmp_path / "bench")]
    assert bench.main([*arguments, "--policies", *policies]) == 0
    results = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert results["setting"]["solver"] == "ddim"
    assert (tmp_path / "bench" / "index.html").is_file()


def test_the_plan_names_only_policies_that_these_models_can_run():
    latte = read_plan(ROOT / "configs/bench/latte.py")
    assert latte.sample == "configs/latte/sample.py"
    assert not {"pab", "teacache", "fbcache", "magcache"} & {policy.name for policy in latte.policies}


def test_open_sora_plan_tiles_its_decoding(tmp_path, plan_folder):
    """A side beyond 256 pixels; the tiny autoencoder is quick enough."""
    tiled = {"type": "CausalVAE", "from_pretrained": f"{plan_folder}/vae", "tiling": True}
    scheduler = {"type": "ddim", "num_sampling_steps": 2}
    changes = {"vae": tiled, "image_size": (16, 272), "num_frames": 1, "scheduler": scheduler, "prompt": [PROMPTS[0]]}
    config = write_config(tmp_path / "config.py", open_sora_plan_config(plan_folder, **changes))
    frames = sample(config, tmp_path / "out")["sample_0000.frames.npz"]
    assert frames.shape == (1, 16, 272, 3)
